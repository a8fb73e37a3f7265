//! `ringmesh.v1.Certificates`: the agent's certificate, the CAs, and orders about them.

use std::time::Duration;

use bytes::Bytes;
use prost_types::Timestamp;
use ringmesh_proto::{
    signed,
    v1::{
        Authority, Certificate, CreateUserRequest, CreateUserResponse, GetCertificateRequest, RenewCertificateRequest,
        RetireAuthorityRequest, RevokeHostRequest, RevokeHostResponse, RevokedCertificate, RotateAuthorityRequest,
        ShareAuthorityRequest, ShareAuthorityResponse, certificates_server::Certificates, create_user_request,
        host::State,
    },
};
use tonic::{Request, Response, Status};

use super::{Api, not_found};
use crate::{
    caller::Caller,
    clock,
    config::is_name,
    identity::{Access, Facts, fingerprint, keyring::ChangeError},
    keeper::KeeperError,
};

/// The longest time that two CAs are trusted side by side.
const MAX_OVERLAP: Duration = Duration::from_secs(90 * 86_400);

/// Of a user's certificate, if nobody says otherwise.
const DEFAULT_USER_LIFETIME: Duration = Duration::from_secs(90 * 86_400);

/// Of a user's certificate.
const MIN_USER_LIFETIME: Duration = Duration::from_secs(60);

/// It cannot be revoked by itself.
const MAX_USER_LIFETIME: Duration = Duration::from_secs(365 * 86_400);

/// Bytes of a tenant's name: it shares a label of 63 with a word before it.
const MAX_TENANT: usize = 55;

const NAME_RULE: &str = "use a-z, 0-9 and '-', beginning and ending with a letter or digit";

#[tonic::async_trait]
impl Certificates for Api {
    async fn get_certificate(&self, _: Request<GetCertificateRequest>) -> Result<Response<Certificate>, Status> {
        Ok(Response::new(self.certificate()))
    }

    async fn renew_certificate(
        &self,
        request: Request<RenewCertificateRequest>,
    ) -> Result<Response<Certificate>, Status> {
        Caller::expect_admin(request.extensions())?;
        self.keeper.renew().await.map_err(status)?;
        Ok(Response::new(self.certificate()))
    }

    async fn rotate_authority(
        &self,
        request: Request<RotateAuthorityRequest>,
    ) -> Result<Response<Certificate>, Status> {
        Caller::expect_admin(request.extensions())?;
        let overlap = match request.into_inner().overlap {
            None => self.config.identity.ca_overlap,
            Some(overlap) => Duration::try_from(overlap)
                .ok()
                .filter(|overlap| *overlap <= MAX_OVERLAP)
                .ok_or_else(|| Status::invalid_argument("an overlap is 0 to 90 days; give another --overlap"))?,
        };
        self.keeper.rotate(overlap).await.map_err(status)?;
        Ok(Response::new(self.certificate()))
    }

    async fn retire_authority(
        &self,
        request: Request<RetireAuthorityRequest>,
    ) -> Result<Response<Certificate>, Status> {
        Caller::expect_admin(request.extensions())?;
        self.keeper.retire(request.into_inner().force).await.map_err(status)?;
        Ok(Response::new(self.certificate()))
    }

    async fn share_authority(
        &self,
        request: Request<ShareAuthorityRequest>,
    ) -> Result<Response<ShareAuthorityResponse>, Status> {
        Caller::expect_admin(request.extensions())?;
        self.keeper.share(&request.into_inner().host).await.map_err(status)?;
        Ok(Response::new(ShareAuthorityResponse {}))
    }

    async fn revoke_host(&self, request: Request<RevokeHostRequest>) -> Result<Response<RevokeHostResponse>, Status> {
        Caller::expect_admin(request.extensions())?;
        let RevokeHostRequest { host, serial } = request.into_inner();
        let serial = parse_serial(&serial).ok_or_else(|| {
            Status::invalid_argument("a serial number is 1 to 40 hexadecimal digits, as `ringmesh cert show` prints it")
        })?;
        let whole = serial.is_empty();
        let record = self.keeper.revoke(&host, serial).await.map_err(status)?;
        let warning = if whole && self.keeper.is_signer(ringmesh_proto::HostId::new(record.host)) {
            format!(
                "{host} holds the CA's key and can make itself another identity: run `ringmesh ca rotate`, and when all \
                 hosts have renewed, `ringmesh ca retire`"
            )
        } else {
            String::new()
        };
        let revocations = self.certificate().revocations;
        let id = ringmesh_proto::HostId::new(record.host).to_string();
        let digits = hex(&record.serial);
        let revocation = revocations.into_iter().find(|revoked| revoked.id == id && revoked.serial == digits);
        Ok(Response::new(RevokeHostResponse { revocation, warning }))
    }

    async fn create_user(&self, request: Request<CreateUserRequest>) -> Result<Response<CreateUserResponse>, Status> {
        Caller::expect_admin(request.extensions())?;
        let request = request.into_inner();
        let access = access(&request)?;
        let lifetime = match request.lifetime {
            None => DEFAULT_USER_LIFETIME,
            Some(lifetime) => Duration::try_from(lifetime)
                .ok()
                .filter(|lifetime| (MIN_USER_LIFETIME..=MAX_USER_LIFETIME).contains(lifetime))
                .ok_or_else(|| Status::invalid_argument("a user's certificate lives for 1 minute to 365 days"))?,
        };
        let certificate = self.keeper.sign_user(request.csr, request.name, access, lifetime).await.map_err(status)?;
        let not_after = Facts::of(&certificate.as_slice().into()).map(|facts| second(facts.not_after));
        let authorities = self.keyring.trust().0.iter().map(|authority| authority.to_vec().into()).collect();
        Ok(Response::new(CreateUserResponse { certificate: certificate.into(), authorities, not_after }))
    }
}

fn access(request: &CreateUserRequest) -> Result<Access, Status> {
    let CreateUserRequest { name, tenant, .. } = request;
    if !is_name(name) {
        return Err(Status::invalid_argument(format!("\"{}\" is no name of a user; {NAME_RULE}", name.escape_debug())));
    }
    let access = match request.access() {
        create_user_request::Access::Unspecified => {
            return Err(Status::invalid_argument("what is the user to be? admin, operator, reader or a tenant's"));
        }
        create_user_request::Access::Admin => Access::Admin,
        create_user_request::Access::Operator => Access::Operator,
        create_user_request::Access::Reader => Access::Reader,
        create_user_request::Access::Tenant if is_name(tenant) && tenant.len() <= MAX_TENANT => {
            return Ok(Access::Tenant(tenant.clone()));
        }
        create_user_request::Access::Tenant => {
            let text = format!("\"{}\" is no name of a tenant; {NAME_RULE}", tenant.escape_debug());
            return Err(Status::invalid_argument(text));
        }
    };
    if tenant.is_empty() { Ok(access) } else { Err(Status::invalid_argument("only a tenant's user has a tenant")) }
}

impl Api {
    fn certificate(&self) -> Certificate {
        let (keyring, view) = (&self.keyring, self.view());
        let facts = keyring.facts();
        let hosts_of = |short: &str| {
            let present = view.hosts.iter().filter(|host| host.state() != State::Left);
            let signed = present.filter(|host| host.certificate.as_ref().is_some_and(|held| held.issuer == short));
            signed.map(|host| host.name.clone()).collect()
        };
        let (authorities, trust_version) = keyring.trust();
        let head = authorities.last().map(fingerprint);
        let authority = |certificate| {
            let print = fingerprint(certificate);
            Authority {
                fingerprint: hex(&print),
                not_after: Facts::of(certificate).map(|facts| second(facts.not_after)),
                signs: Some(print) == head,
                hosts: hosts_of(&format!("{:016x}", signed::short(&print))),
            }
        };
        let revoked = |revoked: crate::identity::keyring::Revoked| RevokedCertificate {
            host: revoked.says.name.clone(),
            id: ringmesh_proto::HostId::new(revoked.record.host).to_string(),
            serial: hex(&revoked.record.serial),
            revoked_at: Some(second(revoked.says.revoked_unix)),
            expires_at: Some(second(revoked.record.expires_unix)),
        };
        Certificate {
            name: keyring.name.clone(),
            id: keyring.host.to_string(),
            serial: hex(&facts.serial),
            not_before: Some(second(facts.not_before)),
            not_after: Some(second(facts.not_after)),
            issuer: keyring.issuer().map(|issuer| hex(&issuer)).unwrap_or_default(),
            renews_at: Some(second(self.keeper.renews_at())),
            authorities: authorities.iter().map(authority).collect(),
            trust_version,
            overlap_until: keyring.overlap_until().map(second),
            signers: self.keeper.signers(),
            revocations: keyring.revocations().into_iter().map(revoked).collect(),
            problem: keyring.problem(clock::unix().0 / 1000).unwrap_or_default(),
        }
    }
}

fn status(error: KeeperError) -> Status {
    let text = error.to_string();
    match error {
        KeeperError::NoHost(host) => not_found("host", &host),
        KeeperError::NotSigner { .. }
        | KeeperError::NotRenewedYet(_)
        | KeeperError::Change(
            ChangeError::NotSigner
            | ChangeError::Rotating
            | ChangeError::NothingToRetire
            | ChangeError::Self_
            | ChangeError::Unusable(_),
        ) => Status::failed_precondition(text),
        KeeperError::Change(ChangeError::TooMany) => Status::resource_exhausted(text),
        KeeperError::NotRenewed(_) | KeeperError::NotShared { .. } | KeeperError::Busy => Status::unavailable(text),
        KeeperError::Change(ChangeError::Identity(_)) => Status::internal(text),
    }
}

fn second(unix: u64) -> Timestamp {
    Timestamp { seconds: i64::try_from(unix).unwrap_or(i64::MAX), nanos: 0 }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_serial(text: &str) -> Option<Bytes> {
    if !text.len().is_multiple_of(2) || text.len() > 2 * signed::MAX_SERIAL || !text.is_ascii() {
        return None;
    }
    let digits = (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok());
    digits.collect::<Option<Vec<u8>>>().map(Bytes::from)
}
