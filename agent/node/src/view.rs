//! What a host knows, at one moment and in the words of the API: every query is answered from it.

mod links;
mod paths;
mod rows;

pub use links::Links;
pub(crate) use links::restored_at;
pub use rows::{ContainerRow, Declared, Removed, ServiceRow, Told};

use std::{collections::BTreeMap, sync::Arc};

use ringmesh_proto::{Generation, HostId, Now, member::Member, v1};

use crate::node::Way;

/// An immutable snapshot. Cloning it is cheap: its parts are shared with the snapshot before where nothing changed.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// When it was taken.
    pub taken: Now,
    /// This host's name.
    pub name: String,
    /// Its zone's.
    pub zone: String,
    /// Of the digest that summarises `containers` and `services`.
    pub fingerprint: u64,
    /// All hosts of this zone by name, this one included.
    pub hosts: Arc<Vec<v1::Host>>,
    /// Ring A and ring B.
    pub rings: Arc<Vec<v1::Ring>>,
    /// All links that any host measures.
    pub links: Arc<Links>,
    /// Where in the history of `containers` and `services` this is: what changed since an earlier one is found by it.
    pub position: Position,
    /// Containers that are no more.
    pub removed: Arc<Removed>,
    /// This host's containers, by name.
    pub containers: Arc<Vec<Arc<ContainerRow>>>,
    /// This host's services, by container and name.
    pub services: Arc<Vec<Arc<ServiceRow>>>,
    /// What is and was done to this host and its containers, the newest last.
    pub operations: Arc<Vec<Arc<v1::Operation>>>,
    /// How the cluster is armed.
    pub arming: v1::Arming,
    /// Of the order that this follows from; 0 if there was none.
    pub arming_version: u64,
    /// This host's cells of containers, by number.
    pub cells: Arc<Vec<v1::Cell>>,
    /// The newest events, oldest first.
    pub events: Arc<Vec<Arc<v1::Event>>>,
    /// The other hosts that can be asked for their details.
    pub peers: Arc<BTreeMap<HostId, Peer>>,
    /// All zones, by name.
    pub zones: Arc<Vec<v1::Zone>>,
    /// By the name of each other zone, the hosts that answer for it, the best first.
    pub gateways: Arc<BTreeMap<String, Vec<Peer>>>,
    /// What was dropped or refused since the start.
    pub counters: Arc<BTreeMap<&'static str, u64>>,
}

/// A moment in the history of this host's containers and services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The generation in which this process began.
    pub born: Generation,
    /// Changes since.
    pub revision: u64,
}

/// Another host, as one who wants to ask it needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where it is.
    pub member: Member,
    /// Its name.
    pub name: String,
    /// False for a host that is down or has left: asking it would only cost time.
    pub askable: bool,
    /// Changes when its details do; 0 before the first digest.
    pub fingerprint: u64,
    /// How to reach it.
    pub way: Way,
}
