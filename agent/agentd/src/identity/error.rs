//! What can go wrong with an identity, by whose fault.

use std::{io, net::IpAddr, path::PathBuf};

use ringmesh_proto::token::TokenError;

use super::{join::JoinError, name::PeerError};
use crate::config::ConfigError;

/// Why there is no identity to work with.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Operator: neither `init` nor `join` was run.
    #[error(
        "this host has no identity in {path}; run `ringmesh init` for a new cluster, or `ringmesh join TOKEN` for one \
         that exists"
    )]
    Missing {
        /// Of the directory.
        path: PathBuf,
    },
    /// Operator: `init` or `join` was run before.
    #[error(
        "this host already has an identity in {path}; start it with `ringmesh agent`, or, to give it a new one, stop \
         the agent and move that directory away"
    )]
    Exists {
        /// Of the directory.
        path: PathBuf,
    },
    /// Operator: no name.
    #[error(
        "\"{}\" is no name of a user; use 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit",
        .0.escape_debug()
    )]
    UserName(String),
    /// Operator: it would be overwritten.
    #[error("there is a key in {0} already; move it away, or give another --out")]
    UserExists(PathBuf),
    /// Operator: others may read a secret.
    #[error("{path} is open to others (mode {mode:04o}); run `chmod 600 {path}`, and take new keys if it was copied")]
    Exposed {
        /// Of the file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Operator or platform: a file that is there but no good.
    #[error("{path} {message}; {cure}")]
    Damaged {
        /// Of the file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
        /// What to do about it.
        cure: &'static str,
    },
    /// Platform: a file that cannot be read or written.
    #[error(
        "cannot {action} {path}; run as the user that it belongs to (root, mostly), and see that the disk is in order"
    )]
    Io {
        /// "read", "write" and the like.
        action: &'static str,
        /// Of the file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Operator: the configuration file.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Operator: a flag says one thing, the file another.
    #[error("--{flag} {given} contradicts {path}, where {key} is {found}; change the file or leave out the flag")]
    Contradiction {
        /// Without its dashes.
        flag: &'static str,
        /// On the command line.
        given: String,
        /// Of the configuration.
        path: PathBuf,
        /// The key in it.
        key: &'static str,
        /// Its value.
        found: String,
    },
    /// Operator: neither a file nor enough flags to write one.
    #[error("there is no configuration {path} yet; give --uplink-a ADDRESS and it is written, or name another file")]
    NoConfig {
        /// Of the configuration.
        path: PathBuf,
    },
    /// Operator: the name of this machine cannot be a host's.
    #[error("this machine's name \"{name}\" cannot be a host's; give one with --name (a-z, 0-9 and '-')")]
    Hostname {
        /// As the kernel has it.
        name: String,
    },
    /// Operator: an uplink that this host does not have.
    #[error("cannot use {address} as uplink {uplink}; give an address of one of this host's interfaces")]
    Uplink {
        /// "a" or "b".
        uplink: &'static str,
        /// As configured.
        address: IpAddr,
        /// Why.
        source: io::Error,
    },
    /// Operator: not a whole join token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The cluster, or the way to it.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// A certificate that does not name what it should.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// Ours or the platform's: keys and certificates could not be made.
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// Ours: the TLS library refuses what we checked.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
}

impl IdentityError {
    /// Of a file that is a part of the identity.
    pub(super) fn damaged(path: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        let cure = "restore it from a backup, or move the whole directory away and join again with a new token";
        Self::Damaged { path: path.into(), message: message.into(), cure }
    }
}
