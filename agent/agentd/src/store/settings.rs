//! What `ringmesh store serve` is told, checked. It touches no file and no socket.

use std::{path::PathBuf, time::Duration};

use sha2::{Digest, Sha256};

use super::holder::Holding;

/// Members of one store, at the most: each write waits for a majority of them.
const MAX_MEMBERS: usize = 7;

/// Where clients find a store that is told nothing.
pub const DEFAULT_CLIENT_URL: &str = "http://127.0.0.1:2379";

/// Where the other members find it.
pub const DEFAULT_PEER_URL: &str = "http://127.0.0.1:2380";

/// Bytes of keys and values beyond which nothing more is written.
pub const DEFAULT_QUOTA_BYTES: u64 = 2 << 30;

/// The options as they were typed.
#[derive(Clone, Debug)]
pub struct Options {
    /// `--name`
    pub name: String,
    /// `--data-dir`
    pub data_dir: PathBuf,
    /// `--listen-client-urls`
    pub listen_client_urls: Vec<String>,
    /// `--advertise-client-urls`; none: those that it listens on.
    pub advertise_client_urls: Vec<String>,
    /// `--listen-peer-urls`; none: what `initial_cluster` says of this member.
    pub listen_peer_urls: Vec<String>,
    /// `--initial-cluster`, NAME=URL each; none: this member alone.
    pub initial_cluster: Vec<String>,
    /// `--quota-backend-bytes`
    pub quota_bytes: u64,
    /// `--auto-compaction-retention`
    pub retention: Option<Duration>,
}

/// A fault of whoever typed the options.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum SettingsError {
    /// No URL of the form that is served.
    #[error("{option}: \"{url}\" is no URL of a store; write http://ADDRESS:PORT")]
    Url {
        /// Of which option.
        option: &'static str,
        /// As typed.
        url: String,
    },
    /// TLS is not served.
    #[error(
        "{option}: {url} asks for TLS, which the standalone store does not serve; use http:// and a private network"
    )]
    Tls {
        /// Of which option.
        option: &'static str,
        /// As typed.
        url: String,
    },
    /// Not NAME=URL.
    #[error("--initial-cluster: \"{0}\" is not NAME=URL; write --initial-cluster a=http://10.0.0.1:2380,b=…")]
    Member(String),
    /// Two members have one name or URL.
    #[error("--initial-cluster names {0} twice; give each member its own name and URL")]
    Twice(String),
    /// It does not know itself.
    #[error("--initial-cluster lacks {0}, the --name of this member; name all members in it, with this one")]
    Absent(String),
    /// Too many.
    #[error("--initial-cluster has {0} members, and a store has {MAX_MEMBERS} at the most; use 3 or 5")]
    TooMany(usize),
    /// There is no empty name.
    #[error("--name is empty or has a character other than letters, digits, '-', '_' and '.'")]
    Name,
    /// Nobody could talk to it.
    #[error("--listen-client-urls is empty; leave it out for {DEFAULT_CLIENT_URL}")]
    NoClientUrl,
}

/// What the store is to be.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Of this member.
    pub name: String,
    /// Where its files are.
    pub data_dir: PathBuf,
    /// Host and port of each, to listen on for clients.
    pub listen_client: Vec<String>,
    /// What it tells clients about itself.
    pub client_urls: Vec<String>,
    /// Host and port of each, to listen on for members; none of a member that is alone.
    pub listen_peer: Vec<String>,
    /// All members by their id, with this one; none of an agent's replica.
    pub members: Vec<Member>,
    /// Its own id.
    pub id: u64,
    /// Of the members together, if they do not come from a snapshot.
    pub cluster_id: u64,
    /// In bytes.
    pub quota_bytes: u64,
    /// How long old revisions are kept; None: until a client compacts them.
    pub retention: Option<Duration>,
}

/// One of the members.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Of its name and its URL.
    pub id: u64,
    /// As in `--initial-cluster`.
    pub name: String,
    /// As in `--initial-cluster`.
    pub peer_url: String,
    /// Host and port of that.
    pub address: String,
}

impl Settings {
    /// Of an agent's replica.
    pub(super) fn of_replica(holding: &Holding, id: u64, data_dir: PathBuf) -> Self {
        Self {
            name: holding.name.clone(),
            data_dir,
            listen_client: Vec::new(),
            client_urls: Vec::new(),
            listen_peer: Vec::new(),
            members: Vec::new(),
            id,
            cluster_id: holding.cluster.raw(),
            quota_bytes: holding.quota_bytes,
            retention: holding.retention,
        }
    }

    /// Checks what was typed.
    pub fn check(options: Options) -> Result<Self, SettingsError> {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if options.name.is_empty() || !options.name.chars().all(is_plain) {
            return Err(SettingsError::Name);
        }
        if options.listen_client_urls.is_empty() {
            return Err(SettingsError::NoClientUrl);
        }
        let listen_client = addresses("--listen-client-urls", &options.listen_client_urls)?;
        let client_urls = if options.advertise_client_urls.is_empty() {
            options.listen_client_urls
        } else {
            addresses("--advertise-client-urls", &options.advertise_client_urls)?;
            options.advertise_client_urls
        };
        let members = members(&options.name, options.initial_cluster)?;
        let me = members
            .iter()
            .find(|member| member.name == options.name)
            .ok_or_else(|| SettingsError::Absent(options.name.clone()))?;
        let told = addresses("--listen-peer-urls", &options.listen_peer_urls)?;
        let listen_peer = match (members.len(), told.is_empty()) {
            (1, _) => Vec::new(),
            (_, true) => vec![me.address.clone()],
            (_, false) => told,
        };
        Ok(Self {
            id: me.id,
            cluster_id: cluster_id(&members),
            name: options.name,
            data_dir: options.data_dir,
            listen_client,
            client_urls,
            listen_peer,
            members,
            quota_bytes: if options.quota_bytes == 0 { DEFAULT_QUOTA_BYTES } else { options.quota_bytes },
            retention: options.retention.filter(|retention| !retention.is_zero()),
        })
    }
}

fn members(name: &str, named: Vec<String>) -> Result<Vec<Member>, SettingsError> {
    let named = if named.is_empty() { vec![format!("{name}={DEFAULT_PEER_URL}")] } else { named };
    if named.len() > MAX_MEMBERS {
        return Err(SettingsError::TooMany(named.len()));
    }
    let mut members: Vec<Member> = Vec::new();
    for text in named {
        let member = member(text)?;
        if let Some(other) = members.iter().find(|other| other.name == member.name || other.address == member.address) {
            let what = if other.name == member.name { member.name } else { member.peer_url };
            return Err(SettingsError::Twice(what));
        }
        members.push(member);
    }
    members.sort_by_key(|member| member.id);
    Ok(members)
}

fn member(text: String) -> Result<Member, SettingsError> {
    let Some((name, url)) = text.split_once('=').filter(|(name, _)| !name.is_empty()) else {
        return Err(SettingsError::Member(text));
    };
    let address = address("--initial-cluster", url)?;
    let id = id(&[name.as_bytes(), b"=", url.as_bytes()]);
    Ok(Member { id, name: name.to_owned(), peer_url: url.to_owned(), address })
}

/// The members' ids are in order.
fn cluster_id(members: &[Member]) -> u64 {
    let ids: Vec<[u8; 8]> = members.iter().map(|member| member.id.to_be_bytes()).collect();
    id(&ids.iter().map(<[u8; 8]>::as_slice).collect::<Vec<_>>())
}

/// Of a cluster whose members began with that snapshot: none that was before it, even if they have the same names.
pub(super) fn restored_id(cluster_id: u64, snapshot: &str) -> u64 {
    id(&[&cluster_id.to_be_bytes(), snapshot.as_bytes()])
}

/// Never 0, which stands for no member.
fn id(parts: &[&[u8]]) -> u64 {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    let digest = hash.finalize();
    let (head, _) = digest.split_first_chunk().expect("SHA-256 has more than 8 bytes");
    u64::from_be_bytes(*head).max(1)
}

fn addresses(option: &'static str, urls: &[String]) -> Result<Vec<String>, SettingsError> {
    urls.iter().map(|url| address(option, url)).collect()
}

/// Host and port of `http://HOST:PORT`.
fn address(option: &'static str, url: &str) -> Result<String, SettingsError> {
    if url.starts_with("https://") {
        return Err(SettingsError::Tls { option, url: url.to_owned() });
    }
    let rest = url.strip_prefix("http://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    let is_whole = |rest: &&str| {
        rest.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok() && !host.contains(['/', '@', '?', '#', ' '])
        })
    };
    rest.filter(is_whole).map(str::to_owned).ok_or_else(|| SettingsError::Url { option, url: url.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options {
            name: "a".into(),
            data_dir: "/x".into(),
            listen_client_urls: vec![DEFAULT_CLIENT_URL.into()],
            advertise_client_urls: Vec::new(),
            listen_peer_urls: Vec::new(),
            initial_cluster: Vec::new(),
            quota_bytes: 0,
            retention: None,
        }
    }

    #[test]
    fn a_member_alone_needs_no_more_than_a_name() {
        let settings = Settings::check(options()).unwrap();
        assert_eq!(settings.listen_client, ["127.0.0.1:2379"]);
        assert_eq!(settings.client_urls, [DEFAULT_CLIENT_URL]);
        assert_eq!(settings.listen_peer, [""; 0]);
        assert_eq!(settings.members.len(), 1);
        assert_eq!(settings.quota_bytes, DEFAULT_QUOTA_BYTES);
    }

    #[test]
    fn all_members_agree_on_the_ids_in_whatever_order_they_are_named() {
        let names = ["a=http://127.0.0.1:1", "b=http://127.0.0.1:2", "c=http://[::1]:3"].map(String::from);
        let first = Settings::check(Options { initial_cluster: names.to_vec(), ..options() }).unwrap();
        let mut backwards = names.to_vec();
        backwards.reverse();
        let second = Options { name: "c".into(), initial_cluster: backwards, ..options() };
        let second = Settings::check(second).unwrap();
        assert_eq!((first.cluster_id, &first.members), (second.cluster_id, &second.members));
        assert_ne!(first.id, second.id);
        assert_eq!(second.listen_peer, ["[::1]:3"]);
    }

    #[test]
    fn each_mistake_is_named() {
        let cluster = |members: &[&str]| Options {
            initial_cluster: members.iter().map(|member| (*member).to_owned()).collect(),
            ..options()
        };
        let client = |url: &str| Options { listen_client_urls: vec![url.into()], ..options() };
        let cases = [
            (Options { name: "a b".into(), ..options() }, "--name"),
            (client("127.0.0.1:1"), "no URL"),
            (client("http://127.0.0.1"), "no URL"),
            (client("http://127.0.0.1:65536"), "no URL"),
            (client("http://127.0.0.1:1/path"), "no URL"),
            (client("https://127.0.0.1:1"), "TLS"),
            (Options { listen_client_urls: Vec::new(), ..options() }, "--listen-client-urls"),
            (Options { advertise_client_urls: vec!["x".into()], ..options() }, "--advertise-client-urls"),
            (Options { listen_peer_urls: vec!["x".into()], ..options() }, "--listen-peer-urls"),
            (cluster(&["http://127.0.0.1:1"]), "NAME=URL"),
            (cluster(&["b=http://127.0.0.1:1"]), "lacks a"),
            (cluster(&["a=http://127.0.0.1:1", "a=http://127.0.0.1:2"]), "a twice"),
            (cluster(&["a=http://127.0.0.1:1", "b=http://127.0.0.1:1"]), "127.0.0.1:1 twice"),
            (cluster(&["a=http://127.0.0.1:1"; 8]), "8 members"),
        ];
        for (options, expected) in cases {
            let error = Settings::check(options).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
