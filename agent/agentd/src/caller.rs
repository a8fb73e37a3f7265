//! Who asks, and what it may do. A connection's certificate or the mode of the socket decides that once; it goes with each
//! request as an extension.

use tonic::{Extensions, Status, codegen::http, transport::server::UdsConnectInfo};

use crate::identity::{Access, PeerIdentity, Role};

/// Whoever made a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// For people: "root on h1", "alice".
    pub(crate) name: String,
    /// What it may do.
    pub(crate) access: Access,
}

impl Caller {
    /// Of a connection to the unix socket of `host`, whose file's mode has let it in.
    pub(crate) fn local(info: &UdsConnectInfo, host: &str) -> Self {
        let name = match info.peer_cred.map(|peer| peer.uid()) {
            Some(0) => format!("root on {host}"),
            Some(uid) => format!("user {uid} on {host}"),
            None => format!("somebody on {host}"),
        };
        Self { name, access: Access::Admin }
    }

    /// Of whom a certificate names. A host may look, and not act.
    pub(crate) fn of(identity: PeerIdentity) -> Self {
        match identity.role {
            Role::Host(host) => Self { name: format!("host {host}"), access: Access::Reader },
            Role::User { name, access } => Self { name, access },
        }
    }

    /// Who made the request that `extensions` are of.
    ///
    /// # Errors
    /// If nothing says so.
    fn find(extensions: &Extensions) -> Result<&Self, Status> {
        extensions.get::<Self>().ok_or_else(|| Status::unauthenticated("nobody knows who asks"))
    }

    /// Refuses who may not change what the cluster runs. Returns who does.
    pub(crate) fn expect_operator(extensions: &Extensions) -> Result<String, Status> {
        let caller = Self::find(extensions)?;
        match caller.access {
            Access::Admin | Access::Operator => Ok(caller.name.clone()),
            Access::Reader | Access::Tenant(_) => Err(caller.refused("an operator's or an administrator's")),
        }
    }

    /// Refuses who may not do everything.
    pub(crate) fn expect_admin(extensions: &Extensions) -> Result<(), Status> {
        let caller = Self::find(extensions)?;
        match caller.access {
            Access::Admin => Ok(()),
            Access::Operator | Access::Reader | Access::Tenant(_) => Err(caller.refused("an administrator's")),
        }
    }

    /// Refuses who may see but its own objects.
    pub(crate) fn expect_reader(extensions: &http::Extensions) -> Result<(), Status> {
        let Some(caller) = extensions.get::<Self>() else {
            return Err(Status::unauthenticated("nobody knows who asks"));
        };
        match &caller.access {
            Access::Admin | Access::Operator | Access::Reader => Ok(()),
            Access::Tenant(tenant) => Err(Status::permission_denied(format!(
                "{} sees the objects of tenant {tenant} alone: `ringmesh get`; for this it needs a reader's certificate",
                caller.name
            ))),
        }
    }

    /// As it goes with each request of a connection.
    pub(crate) fn go_along(self) -> http::Extensions {
        let mut extensions = http::Extensions::new();
        extensions.insert(self);
        extensions
    }

    /// As one host tells another for whom it passes a call on; None if its name makes no header.
    pub(crate) fn to_header(&self) -> Option<http::HeaderValue> {
        format!("{} {}", self.access.label(), self.name).try_into().ok()
    }

    /// What [`to_header`](Self::to_header) made.
    pub(crate) fn from_header(value: &http::HeaderValue) -> Option<Self> {
        let (access, name) = value.to_str().ok()?.split_once(' ')?;
        Some(Self { name: name.to_owned(), access: Access::parse(access)? })
    }

    fn refused(&self, needed: &str) -> Status {
        Status::permission_denied(format!("{} may not do this: it needs {needed} certificate", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_that_is_passed_on_is_the_same() {
        for access in [Access::Admin, Access::Operator, Access::Reader, Access::Tenant("acme".into())] {
            let caller = Caller { name: "root on h1".into(), access };
            assert_eq!(caller.to_header().as_ref().and_then(Caller::from_header), Some(caller));
        }
        for bad in ["", "admin", "root alice", "tenant- bob"] {
            assert_eq!(Caller::from_header(&http::HeaderValue::from_static(bad)), None, "{bad}");
        }
    }
}
