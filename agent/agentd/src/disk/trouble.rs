//! What cannot be written down, and when that is tried again.

use std::{collections::BTreeMap, time::Duration};

use tokio::sync::watch;

/// What could not be written is tried again after so long.
const RETRY: Duration = Duration::from_secs(2);

/// The most bytes of a problem: it becomes the text of an event.
const MAX_PROBLEM: usize = 300;

/// Which of the files of the state directory cannot be written, and why. Those who write say so, the host loop listens.
#[derive(Clone, Debug)]
pub struct Trouble {
    failing: std::sync::Arc<std::sync::Mutex<BTreeMap<&'static str, String>>>,
    first: watch::Sender<Option<String>>,
}

impl Default for Trouble {
    fn default() -> Self {
        Self { failing: Default::default(), first: watch::channel(None).0 }
    }
}

impl Trouble {
    /// `what` was written, or was not, and why.
    pub fn note(&self, what: &'static str, result: &Result<(), String>) {
        let mut failing = self.failing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match result {
            Ok(()) => failing.remove(what),
            Err(error) => failing.insert(what, error.clone()),
        };
        let text = failing.first_key_value().map(|(what, why)| cut(format!("{what}: {why}")));
        self.first.send_if_modified(|first| {
            let new = *first != text;
            *first = text;
            new
        });
    }

    /// The first of the problems, as long as there is one.
    pub fn watch(&self) -> watch::Receiver<Option<String>> {
        self.first.subscribe()
    }
}

/// Waits until there is something new to write, or until it is time to try `again`; false when nobody gives more.
pub(super) async fn wait_for_work<T>(newest: &mut watch::Receiver<T>, again: bool) -> bool {
    if !again {
        return newest.changed().await.is_ok();
    }
    tokio::time::timeout(RETRY, newest.changed()).await.is_ok_and(|changed| changed.is_ok())
        || newest.has_changed().is_ok()
}

/// The error and its causes.
pub fn one_line_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    cut(text)
}

fn cut(mut text: String) -> String {
    let end = (0..=text.len().min(MAX_PROBLEM)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_trouble_until_all_can_be_written() {
        let trouble = Trouble::default();
        let told = trouble.watch();
        let note = |what, result: Result<(), &str>| {
            trouble.note(what, &result.map_err(str::to_owned));
            told.borrow().clone()
        };
        assert_eq!(note("b", Ok(())), None);
        assert_eq!(note("b", Err("full")).as_deref(), Some("b: full"));
        assert_eq!(note("a", Err("full, too")).as_deref(), Some("a: full, too"));
        assert_eq!(note("a", Ok(())).as_deref(), Some("b: full"));
        assert_eq!(note("b", Err(&"é".repeat(400))).map(|text| text.len()), Some(299));
        assert_eq!(note("b", Ok(())), None);
    }

    #[tokio::test]
    async fn what_failed_is_tried_again_and_what_is_written_waits_for_news() {
        let (sender, mut newest) = watch::channel(1);
        assert!(wait_for_work(&mut newest, true).await, "it is time");
        sender.send_replace(2);
        assert!(wait_for_work(&mut newest, false).await, "there is news");
        newest.mark_unchanged();
        drop(sender);
        assert!(!wait_for_work(&mut newest, false).await && !wait_for_work(&mut newest, true).await);
    }
}
