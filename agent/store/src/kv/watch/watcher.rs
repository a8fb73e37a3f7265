//! One watch.

use std::sync::Arc;

use ringmesh_proto::etcd::{
    etcdserverpb::{WatchCreateRequest, watch_create_request::FilterType},
    mvccpb::{Event, event::EventType},
};

use super::{StreamId, interests::Interest};

/// By which a watcher is known inside.
pub(super) type Number = u32;

/// One watch of a stream.
#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) stream: StreamId,
    pub(super) id: i64,
    /// Shared with what waits for it.
    pub(super) interest: Arc<Interest>,
    /// It has been told of all before this revision, or did not ask for it.
    pub(super) next: i64,
    pub(super) place: Place,
    pub(super) options: Options,
    /// Whether it was told of anything since progress was last told.
    pub(super) was_told: bool,
}

/// Where a watcher's events come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// From each command as it is applied.
    Live,
    /// From history, in turns.
    Behind,
    /// From history, once its stream has room again.
    Blocked,
    /// From history, as there is room again.
    Released,
}

impl Place {
    /// Whether it reads history.
    pub(super) fn is_behind(self) -> bool {
        matches!(self, Self::Behind | Self::Released)
    }
}

/// What it wants to be told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    pub(super) puts: bool,
    pub(super) deletes: bool,
    pub(super) previous: bool,
    pub(super) progress: bool,
    pub(super) fragments: bool,
}

impl Options {
    pub(super) fn new(request: &WatchCreateRequest) -> Self {
        Self {
            puts: !request.filters.contains(&FilterType::Noput.into()),
            deletes: !request.filters.contains(&FilterType::Nodelete.into()),
            previous: request.prev_kv,
            progress: request.progress_notify,
            fragments: request.fragment,
        }
    }

    pub(super) fn wants(self, event: &Event) -> bool {
        match event.r#type() {
            EventType::Put => self.puts,
            EventType::Delete => self.deletes,
        }
    }
}
