//! The API `ringmesh.v1`: every query is answered from the newest snapshot, and for details from those of the other
//! hosts, which are asked over QUIC.
//!
//! It owns no state and changes none but by a command to the host loop.

mod agent;
mod cells;
mod certificates;
mod cluster;
mod containers;
mod events;
mod hosts;
mod hub;
mod operations;
mod rings;
mod server;
mod services;
mod watch;
mod zones;

use std::{pin::Pin, sync::Arc};

use ringmesh_node::View;
use ringmesh_proto::UnixMillis;
use tokio::sync::mpsc;
use tonic::Status;

pub use hub::Watches;
pub use server::{ApiError, StoreEnd, start};

use crate::{
    config::{Config, ConfigFile},
    counters::Counters,
    host_loop::Command,
    identity::{Keyring, admission::AuthoritySlot},
    keeper::Keeper,
    quic::Transport,
    store::Access,
};

/// What the API's services share.
#[derive(Clone)]
pub struct Api {
    /// Snapshots.
    pub view: tokio::sync::watch::Receiver<Arc<View>>,
    /// To other hosts.
    pub transport: Transport,
    /// To the host loop.
    pub commands: mpsc::Sender<Command>,
    /// Makes tokens, if this host holds the CA's key.
    pub authority: AuthoritySlot,
    /// Who this host is, and what it trusts.
    pub keyring: Arc<Keyring>,
    /// Renews, and carries out orders about certificates.
    pub keeper: Arc<Keeper>,
    /// What runs.
    pub config: Arc<Config>,
    /// The file that it was read from, for who asks: the containers of the other are gone to their supervisor.
    pub config_file: Arc<ConfigFile>,
    /// Of the whole daemon.
    pub counters: Arc<Counters>,
    /// When the agent started.
    pub started_at: UnixMillis,
    /// What is watched.
    pub watches: Arc<Watches>,
    /// The replicated configuration.
    pub store: Access,
}

/// A stream of answers.
type Answers<T> = Pin<Box<dyn futures_util::Stream<Item = Result<T, Status>> + Send>>;

impl Api {
    fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.borrow())
    }
}

fn not_found(kind: &str, name: &str) -> Status {
    Status::not_found(format!("there is no {kind} \"{}\"", name.escape_debug()))
}
