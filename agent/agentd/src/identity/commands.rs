//! `ringmesh init` and `ringmesh join`: how a host gets its identity.
//!
//! It owns the order of the steps, so that one that fails leaves no half of an identity. Printing is the command line's.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use ringmesh_node::{Chords, zones::KnownZone};
use ringmesh_proto::{ClusterId, HostId, member::Member, token::Token};

use super::{
    IdentityError, admission, cert, directory,
    host_config::{Flags, HostConfig},
    join, known_zones,
    name::{Access, PeerIdentity, Role},
    seeds,
    state::{ClusterFile, FirstHost, NewIdentity},
};
use crate::store;

/// The name in the administrator's certificate that `init` makes.
const OPERATOR: &str = "admin";

/// For [`init`].
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// Read if it is there, otherwise written from what follows.
    pub config_path: PathBuf,
    /// Default: the first label of this machine's name.
    pub name: Option<String>,
    /// Required if there is no configuration yet.
    pub uplink_a: Option<IpAddr>,
    /// Default none.
    pub uplink_b: Option<IpAddr>,
    /// Default /var/lib/ringmesh.
    pub state_dir: Option<PathBuf>,
    /// Default "default".
    pub zone: Option<String>,
}

/// For [`join`].
#[derive(Clone, Debug)]
pub struct JoinOptions {
    /// Read if it is there, otherwise written from what follows.
    pub config_path: PathBuf,
    /// Default: the first label of this machine's name.
    pub name: Option<String>,
    /// Required if there is no configuration yet.
    pub uplink_a: Option<IpAddr>,
    /// Default none.
    pub uplink_b: Option<IpAddr>,
    /// Default /var/lib/ringmesh.
    pub state_dir: Option<PathBuf>,
    /// Default "default".
    pub zone: Option<String>,
    /// As `ringmesh token create` printed it.
    pub token: String,
}

/// What [`init`] made.
#[derive(Clone, Debug)]
pub struct InitOutcome {
    /// The new cluster.
    pub cluster: ClusterId,
    /// Its first host.
    pub host: HostId,
    /// The host's name.
    pub name: String,
    /// Where its keys are.
    pub state_dir: PathBuf,
    /// Whether the configuration was written, too.
    pub config_written: bool,
    /// A certificate for the API over TCP; its key is beside it, as .key.
    pub operator_certificate: PathBuf,
    /// Whether the host has an uplink B. Without one, a single cable cuts it off.
    pub has_uplink_b: bool,
}

/// What [`join`] got.
#[derive(Clone, Debug)]
pub struct JoinOutcome {
    /// The cluster that was joined.
    pub cluster: ClusterId,
    /// The id that was given.
    pub host: HostId,
    /// The host's name.
    pub name: String,
    /// Where its keys are.
    pub state_dir: PathBuf,
    /// Whether the configuration was written, too.
    pub config_written: bool,
    /// The host that answered.
    pub via: SocketAddr,
    /// Members of its zone to contact first.
    pub seeds: Vec<Member>,
    /// Its zone's name.
    pub zone: String,
    /// The zones of the cluster; its own is not among them if it founds it.
    pub zones: Vec<KnownZone>,
    /// The cluster's rule of chords.
    pub chords: Chords,
    /// The one that the configuration asks for in vain.
    pub refused_chords: Option<Chords>,
    /// Whether the host has an uplink B. Without one, a single cable cuts it off.
    pub has_uplink_b: bool,
}

/// Makes a cluster: its CA, its first host and an operator's certificate. Refuses if the host has an identity.
pub fn init(options: &InitOptions) -> Result<InitOutcome, IdentityError> {
    let flags = Flags {
        name: options.name.as_deref(),
        uplink_a: options.uplink_a,
        uplink_b: options.uplink_b,
        state_dir: options.state_dir.as_deref(),
        zone: options.zone.as_deref(),
    };
    let host_config = HostConfig::new(&options.config_path, &flags)?;
    let (name, state_dir) = (&host_config.config.host.name, &host_config.config.host.state_dir);
    refuse_if_there(state_dir)?;
    let config_written = host_config.write()?;
    let cluster = ClusterId::new(cert::random_u64()?);
    let host = first_host_id()?;
    let chords = host_config.config.mesh.chords.map_or(Chords::Auto, |rule| rule.0);
    make_first_host(cluster, host, name, chords, state_dir)?;
    store::found(state_dir).map_err(|source| IdentityError::Io { action: "write", path: state_dir.clone(), source })?;
    Ok(InitOutcome {
        cluster,
        host,
        name: name.clone(),
        state_dir: state_dir.clone(),
        config_written,
        operator_certificate: directory(state_dir).join("operator.pem"),
        has_uplink_b: host_config.config.uplink.b.is_some(),
    })
}

/// Joins the cluster that a token is of. Refuses if the host has an identity.
///
/// Blocks for at most some minutes, on a runtime of its own: call it from no other.
pub fn join(options: &JoinOptions) -> Result<JoinOutcome, IdentityError> {
    let token: Token = options.token.parse()?;
    join::refuse_expired(&token, now_unix())?;
    let flags = Flags {
        name: options.name.as_deref(),
        uplink_a: options.uplink_a,
        uplink_b: options.uplink_b,
        state_dir: options.state_dir.as_deref(),
        zone: options.zone.as_deref(),
    };
    let host_config = HostConfig::new(&options.config_path, &flags)?;
    let config = &host_config.config;
    let state_dir = &config.host.state_dir;
    refuse_if_there(state_dir)?;
    let config_written = host_config.write()?;
    // Before a use of the token is spent: can anything be written there?
    seeds::write(state_dir, &[])?;

    let uplinks = config.addresses().map(|address| address.map(|address| address.ip()));
    let joined = join::ask(&token, &config.host.name, &config.host.zone, uplinks)?;
    seeds::write(state_dir, &joined.seeds)?;
    known_zones::write(state_dir, &joined.zones)?;
    NewIdentity {
        cluster: ClusterFile {
            cluster: joined.cluster,
            host: joined.host,
            name: config.host.name.clone(),
            ring_seed: joined.ring_seed,
            chords: joined.chords,
        },
        certificate: &joined.certificate,
        key: &joined.key,
        authorities: &joined.authorities,
        first: None,
    }
    .write(state_dir)?;
    Ok(JoinOutcome {
        cluster: joined.cluster,
        host: joined.host,
        name: config.host.name.clone(),
        state_dir: state_dir.clone(),
        config_written,
        via: joined.via,
        seeds: joined.seeds,
        zone: config.host.zone.clone(),
        zones: joined.zones,
        chords: joined.chords,
        refused_chords: config.mesh.chords.map(|rule| rule.0).filter(|asked| *asked != joined.chords),
        has_uplink_b: config.uplink.b.is_some(),
    })
}

fn make_first_host(
    cluster: ClusterId,
    host: HostId,
    name: &str,
    chords: Chords,
    state_dir: &Path,
) -> Result<(), IdentityError> {
    let now = now_unix();
    let ca = cert::Ca::generate(cluster, now)?;
    let sign = |role, common_name: &str| {
        let (key, _) = cert::request()?;
        let certificate = ca.sign(&key, &PeerIdentity { cluster, role }, common_name, now, cert::LEAF_LIFETIME)?;
        Ok::<_, IdentityError>((key, certificate))
    };
    let (key, certificate) = sign(Role::Host(host), name)?;
    let (operator_key, operator) = sign(Role::User { name: OPERATOR.into(), access: Access::Admin }, OPERATOR)?;
    let ring_seed = cert::random_u64()?;
    // None: and none of a cluster that this host was in before.
    seeds::write(state_dir, &[])?;
    known_zones::write(state_dir, &[])?;
    NewIdentity {
        cluster: ClusterFile { cluster, host, name: name.to_owned(), ring_seed, chords },
        certificate: &certificate,
        key: &key,
        authorities: std::slice::from_ref(&ca.certificate),
        first: Some(FirstHost { authority_key_pem: ca.key_pem(), operator: &operator, operator_key: &operator_key }),
    }
    .write(state_dir)
}

fn first_host_id() -> Result<HostId, IdentityError> {
    loop {
        let host = admission::random_host_id()?;
        // Zero comes once in four billion times.
        if host.raw() != 0 {
            return Ok(host);
        }
    }
}

fn refuse_if_there(state_dir: &Path) -> Result<(), IdentityError> {
    let path = directory(state_dir);
    if path.exists() { Err(IdentityError::Exists { path }) } else { Ok(()) }
}

fn now_unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
