//! The operations of this host: those that are open, and the newest that have ended.
//!
//! They are kept in the words of the API, as they are shown and written down. What to do next is not theirs to know.

use std::{collections::VecDeque, sync::Arc};

use ringmesh_proto::{
    Generation, HostId, UnixMillis,
    v1::{
        Operation,
        operation::{Kind, State},
    },
};

/// The most that are open at once; more containers that are sick wait without one.
pub(super) const MAX_OPEN: usize = 256;

/// The most that have ended and are kept.
pub(super) const MAX_ENDED: usize = 128;

/// In the order in which they were made.
pub(super) struct Operations {
    me: HostId,
    born: Generation,
    sequence: u32,
    list: VecDeque<Arc<Operation>>,
}

/// Whether nothing more comes of it.
pub fn has_ended(state: State) -> bool {
    match state {
        State::Unknown | State::Proposed | State::Held | State::Running => false,
        State::Done | State::Failed | State::Refused => true,
    }
}

impl Operations {
    /// Those that an earlier life of this host has left.
    pub(super) fn new(me: HostId, born: Generation, left: impl IntoIterator<Item = Operation>) -> Self {
        let list = left.into_iter().take(MAX_OPEN + MAX_ENDED).map(Arc::new).collect();
        Self { me, born, sequence: 0, list }
    }

    /// Keeps another one and names it. The oldest that has ended makes room.
    pub(super) fn add(&mut self, operation: Operation) -> String {
        self.sequence += 1;
        let id = format!("{}-{}-{}", self.me, self.born, self.sequence);
        self.list.push_back(Arc::new(Operation { id: id.clone(), ..operation }));
        self.trim();
        id
    }

    /// Whose they are.
    pub(super) fn host(&self) -> HostId {
        self.me
    }

    /// One of them.
    pub(super) fn get(&self, id: &str) -> Option<&Operation> {
        // The newest are asked for the most.
        self.list.iter().rev().find(|operation| operation.id == id).map(|operation| &**operation)
    }

    /// Changes one of them; what it is then.
    pub(super) fn edit(&mut self, id: &str, change: impl FnOnce(&mut Operation)) -> Option<Operation> {
        let operation = self.list.iter_mut().rev().find(|operation| operation.id == id)?;
        change(Arc::make_mut(operation));
        Some((**operation).clone())
    }

    /// Ends one of them.
    pub(super) fn end(&mut self, id: &str, now: UnixMillis, state: State, progress: &str) -> Option<Operation> {
        let ended = self.edit(id, |operation| {
            operation.state = state as i32;
            operation.ended_at = Some(now.into());
            operation.progress = progress.to_owned();
        });
        self.trim();
        ended
    }

    /// Those that have not ended.
    pub(super) fn open(&self) -> impl Iterator<Item = &Operation> {
        self.list.iter().filter(|operation| !has_ended(operation.state())).map(|operation| &**operation)
    }

    /// The one on this container that has not ended, but those that freeze and release it.
    pub(super) fn on(&self, container: &str) -> Option<&Operation> {
        let apart = |operation: &&Operation| matches!(operation.kind(), Kind::Freeze | Kind::Release);
        let on = |operation: &&Operation| operation.container == container || operation.replacement == container;
        self.open().filter(on).find(|operation| !apart(operation))
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Arc<Operation>> {
        self.list.iter().cloned().collect()
    }

    fn trim(&mut self) {
        let ended = self.list.iter().filter(|operation| has_ended(operation.state())).count();
        for _ in MAX_ENDED..ended {
            let oldest = self.list.iter().position(|operation| has_ended(operation.state()));
            oldest.and_then(|place| self.list.remove(place));
        }
    }
}

/// For sentences: "restart of web".
pub(super) fn words(operation: &Operation) -> String {
    let container = &operation.container;
    match operation.kind() {
        Kind::None => format!("operation on {container}"),
        Kind::RestartService => format!("restart of {} in {container}", operation.service),
        Kind::RestartContainer => format!("restart of {container}"),
        Kind::Clone if operation.replacement.is_empty() => format!("clone of {container}"),
        Kind::Clone => format!("clone of {container} as {}", operation.replacement),
        Kind::Freeze => format!("freeze of {container}"),
        Kind::Release => format!("release of {container}"),
        Kind::Drain => "drain of the host".into(),
        Kind::Undrain => "end of the host's drain".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_ended_makes_room_and_what_is_open_stays() {
        let mut operations = Operations::new(HostId::new(7), 3, []);
        let open = operations.add(Operation { state: State::Running as i32, ..Operation::default() });
        assert_eq!(open, "00000007-3-1");
        for _ in 0..MAX_ENDED + 5 {
            let id = operations.add(Operation { state: State::Running as i32, ..Operation::default() });
            operations.end(&id, UnixMillis(1), State::Done, "done");
        }
        assert_eq!(operations.all().len(), MAX_ENDED + 1);
        assert_eq!(operations.open().count(), 1);
        assert_eq!(operations.get(&open).map(Operation::state), Some(State::Running));
        assert_eq!(operations.get("00000007-3-2"), None);
    }
}
