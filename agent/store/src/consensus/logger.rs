//! What the crate raft says of itself, in our own tracing.

use slog::{Drain, Level, Logger, Never, OwnedKVList, Record, o};

/// Its words without their fields: what matters of them is in our own events.
pub(super) fn logger(id: u64) -> Logger {
    Logger::root(Words { id }, o!())
}

struct Words {
    id: u64,
}

impl Drain for Words {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), Never> {
        match record.level() {
            Level::Critical | Level::Error => tracing::error!(member = self.id, "raft: {}", record.msg()),
            Level::Warning | Level::Info => tracing::debug!(member = self.id, "raft: {}", record.msg()),
            Level::Debug | Level::Trace => {}
        }
        Ok(())
    }
}
