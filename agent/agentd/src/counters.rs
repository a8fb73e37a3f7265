//! Counts of what was dropped or refused outside the machines.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// One counter a reason.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        impl Counters {
            /// All of them by name.
            pub fn read(&self) -> BTreeMap<&'static str, u64> {
                BTreeMap::from([$((stringify!($name), self.$name.load(Relaxed)),)*])
            }
        }
    };
}

counters! {
    /// Datagrams and frames to a host to which no connection could be opened in time.
    messages_unsent,
    /// Datagrams that a connection's buffer or path had no room for.
    datagrams_dropped,
    /// Datagrams that the host loop was too busy to take.
    datagrams_overrun,
    /// Urgent gossip frames dropped because a queue was full.
    event_frames_dropped,
    /// Other gossip frames dropped because a queue was full.
    digest_frames_dropped,
    /// Connections refused for their certificate, cluster or protocol.
    connections_refused,
    /// Frames refused: malformed, oversized, of an unknown version or another cluster.
    frames_refused,
    /// Requests refused, joins among them.
    requests_refused,
    /// Packets that the kernel refused to send: no route, a filter, no room for the neighbour.
    sends_refused,
    /// Packets that waited because an uplink's send buffer was full.
    sends_delayed,
    /// Errors instead of packets that were received.
    receives_failed,
    /// Times that the kernel had more to say of interfaces than was read; all was looked at then.
    carrier_overruns,
    /// Questions of hosts that do not hear each other, passed on.
    requests_relayed,
    /// Hosts admitted to the cluster.
    hosts_admitted,
    /// Certificates signed for other hosts that asked for a new one.
    certificates_signed,
    /// Connections closed because the other end's certificate was revoked.
    connections_revoked,
    /// Records of the CA that were forged, malformed, of an unknown CA, or too many.
    signed_records_refused,
    /// Records of the CA that were older than what is here.
    signed_records_stale,
    /// Files of histories that could not be written; they are tried again.
    history_writes_failed,
    /// Histories that were damaged on the disk, and are lost.
    histories_damaged,
}

/// One more.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
