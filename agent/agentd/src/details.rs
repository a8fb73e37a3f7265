//! Containers and services as lists and watches treat them: their order, which are selected, what of them is shown.
//!
//! It owns the bounds of one answer. It knows nobody who could be asked.

use std::sync::Arc;

use prost::Message;
use ringmesh_node::View;
use ringmesh_proto::{
    peer::{Position, QueryRequest, QueryResponse, Selection},
    v1::{Container, Digest, Service},
};

/// The most objects of one answer, also when a client wants more.
pub const MAX_PAGE: usize = 1000;

/// Bytes of the objects of one answer: half of what gRPC's clients take unless told otherwise.
pub const MAX_PAGE_BYTES: usize = 2 << 20;

/// What names an object on its host: its container and, for a service, its own name.
pub type Key<'a> = (&'a str, &'a str);

/// What a host tells of in detail, as its snapshot has it: sorted by key.
pub trait Detail: Message + Clone + Default + PartialEq {
    /// For sentences.
    const KIND: &'static str;
    /// All fields, in the order of [`Fields`].
    const FIELDS: &'static [&'static str];
    /// Fields that name it; they are always shown.
    const IDENTITY: &'static [&'static str];
    /// Fields that change all the time, such as times and latencies: they alone are no change.
    const VOLATILE: &'static [&'static str];

    /// What names it on its host.
    fn key(&self) -> Key<'_>;

    /// The host that it is on.
    fn host(&self) -> &str;

    /// Whether all filters let it pass.
    fn is_selected(&self, selection: &Selection) -> bool;

    /// A copy of these fields alone.
    fn pick(&self, fields: Fields) -> Self;

    /// The fields in which both differ.
    fn differing(&self, other: &Self) -> Fields;

    /// How many there are, by the summary of a host or of a zone.
    fn count(digest: Option<&Digest>) -> u32;

    /// This host's.
    fn own(view: &View) -> &Arc<Vec<Arc<Self>>>;

    /// Those of an answer.
    fn in_answer(answer: &mut QueryResponse) -> &mut Vec<Self>;

    /// The question for them.
    fn query(selection: Selection) -> QueryRequest;
}

/// Some of an object's fields: a bit each, in the order of [`Detail::FIELDS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields(u64);

/// An object has no such field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a {kind} has no field \"{}\"; it has {}", .name.escape_debug(), .has.join(", "))]
pub struct UnknownField {
    kind: &'static str,
    name: String,
    has: &'static [&'static str],
}

impl Fields {
    /// Every field.
    pub const ALL: Self = Self(u64::MAX);

    /// Those of these names, and those that name the object; all of them if none is named.
    pub fn named<T: Detail>(names: &[String]) -> Result<Self, UnknownField> {
        if names.is_empty() {
            return Ok(Self::ALL);
        }
        let mut fields = Self::of::<T>(T::IDENTITY);
        for name in names {
            let Some(at) = T::FIELDS.iter().position(|field| field == name) else {
                return Err(UnknownField { kind: T::KIND, name: name.clone(), has: T::FIELDS });
            };
            fields.0 |= 1 << at;
        }
        Ok(fields)
    }

    /// Whether only volatile ones are among them.
    pub fn are_volatile<T: Detail>(self) -> bool {
        self.0 & !Self::of::<T>(T::VOLATILE).0 == 0
    }

    fn of<T: Detail>(names: &[&str]) -> Self {
        let bits = T::FIELDS.iter().enumerate().filter(|(_, field)| names.contains(field)).map(|(at, _)| 1 << at);
        Self(bits.fold(0, |all, bit: u64| all | bit))
    }
}

/// Every field by name, so that one that is forgotten does not compile.
macro_rules! fields {
    ($($field:ident),* $(,)?) => {
        const FIELDS: &'static [&'static str] = &[$(stringify!($field)),*];

        #[allow(unused_assignments)] // After the last field.
        fn pick(&self, Fields(mut bits): Fields) -> Self {
            $(
                let $field = if bits & 1 == 1 { self.$field.clone() } else { Default::default() };
                bits >>= 1;
            )*
            Self { $($field),* }
        }

        #[allow(unused_assignments)] // After the last field.
        fn differing(&self, other: &Self) -> Fields {
            let (mut bits, mut bit) = (0, 1);
            $(
                if self.$field != other.$field {
                    bits |= bit;
                }
                bit <<= 1;
            )*
            Fields(bits)
        }
    };
}

impl Detail for Container {
    const KIND: &'static str = "container";
    const IDENTITY: &'static [&'static str] = &["name", "host"];
    const VOLATILE: &'static [&'static str] = &[];

    fields!(
        name, host, tenant, state, score, verdict, frozen, driver, pid, addresses, labels, started_at, problem,
        services,
    );

    fn key(&self) -> Key<'_> {
        (&self.name, "")
    }

    fn host(&self) -> &str {
        &self.host
    }

    fn is_selected(&self, selection: &Selection) -> bool {
        (selection.container.is_empty() || self.name == selection.container)
            && has(&selection.verdicts, self.verdict)
            && has(&selection.states, self.state)
            && selection.labels.iter().all(|(key, value)| self.labels.get(key) == Some(value))
    }

    fn count(digest: Option<&Digest>) -> u32 {
        digest.map_or(0, |digest| digest.containers)
    }

    fn own(view: &View) -> &Arc<Vec<Arc<Self>>> {
        &view.containers
    }

    fn in_answer(answer: &mut QueryResponse) -> &mut Vec<Self> {
        &mut answer.containers
    }

    fn query(selection: Selection) -> QueryRequest {
        QueryRequest { containers: true, selection: Some(selection), ..QueryRequest::default() }
    }
}

impl Detail for Service {
    const KIND: &'static str = "service";
    const IDENTITY: &'static [&'static str] = &["name", "container", "host"];
    const VOLATILE: &'static [&'static str] = &["last_answer", "last_latency", "last_probe"];

    fields!(
        name,
        container,
        host,
        verdict,
        probe,
        last_change,
        last_answer,
        last_latency,
        last_probe,
        weight,
        tenant,
        labels,
        kind,
    );

    fn key(&self) -> Key<'_> {
        (&self.container, &self.name)
    }

    fn host(&self) -> &str {
        &self.host
    }

    fn is_selected(&self, selection: &Selection) -> bool {
        (selection.container.is_empty() || self.container == selection.container)
            && (selection.service.is_empty() || self.name == selection.service)
            && has(&selection.verdicts, self.verdict)
            && selection.labels.iter().all(|(key, value)| self.labels.get(key) == Some(value))
    }

    fn count(digest: Option<&Digest>) -> u32 {
        digest.map_or(0, |digest| digest.services)
    }

    fn own(view: &View) -> &Arc<Vec<Arc<Self>>> {
        &view.services
    }

    fn in_answer(answer: &mut QueryResponse) -> &mut Vec<Self> {
        &mut answer.services
    }

    fn query(selection: Selection) -> QueryRequest {
        QueryRequest { services: true, selection: Some(selection), ..QueryRequest::default() }
    }
}

/// Whether `value` is one of those wanted; none wanted means all.
fn has(wanted: &[i32], value: i32) -> bool {
    wanted.is_empty() || wanted.contains(&value)
}

/// As many of the selected ones as fit into one answer.
#[derive(Debug)]
pub struct Page<T> {
    /// In their order.
    pub items: Vec<T>,
    /// More follow.
    pub cut: bool,
    limit: usize,
    room: usize,
}

impl<T: Detail> Page<T> {
    /// An empty one, for at most `limit` objects; 0 for as many as may be.
    pub fn new(limit: u32) -> Self {
        let limit = if limit == 0 { MAX_PAGE } else { MAX_PAGE.min(limit as usize) };
        Self { items: Vec::new(), cut: false, limit, room: MAX_PAGE_BYTES }
    }

    /// How many more may come.
    pub fn missing(&self) -> u32 {
        (self.limit - self.items.len()) as u32
    }

    /// Nothing more may come.
    pub fn is_full(&self) -> bool {
        self.cut || self.items.len() >= self.limit
    }

    /// Takes the object, or notes that there is one more. One that exceeds the bytes of a page has a page of its own.
    pub fn push(&mut self, item: T) {
        let len = item.encoded_len();
        if self.is_full() || (len > self.room && !self.items.is_empty()) {
            self.cut = true;
            return;
        }
        self.room = self.room.saturating_sub(len);
        self.items.push(item);
    }

    /// Where the next page begins, if there is one.
    pub fn last(&self, zone: &str) -> Option<Position> {
        let item = self.items.last().filter(|_| self.cut)?;
        let (container, service) = item.key();
        let (host, container, service) = (item.host().to_owned(), container.to_owned(), service.to_owned());
        Some(Position { zone: zone.to_owned(), host, container, service })
    }
}

/// Those of one host's `items` that are selected and come after `after`, if that is a place on this host.
pub fn select<T: Detail>(items: &[Arc<T>], selection: &Selection, after: Option<Key<'_>>, fields: Fields) -> Page<T> {
    let mut page = Page::new(selection.limit);
    let begins = |item: &Arc<T>| {
        let (container, _) = item.key();
        after.is_some_and(|after| item.key() <= after) || container < selection.container.as_str()
    };
    for item in &items[items.partition_point(begins)..] {
        if page.cut || (!selection.container.is_empty() && item.key().0 != selection.container) {
            break;
        }
        if item.is_selected(selection) {
            // What is one too many need not be copied.
            if page.is_full() { page.cut = true } else { page.push(item.pick(fields)) }
        }
    }
    page
}

/// Tells the changes from one list of one host's objects to another, both sorted by key: before and after.
pub fn changes<'a, T: Detail>(
    old: &'a [Arc<T>],
    new: &'a [Arc<T>],
    mut tell: impl FnMut(Option<&'a Arc<T>>, Option<&'a Arc<T>>),
) {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(old), Some(new)) => old.key().cmp(&new.key()),
        };
        let before = if order.is_le() { old.next() } else { None };
        let after = if order.is_ge() { new.next() } else { None };
        match (before, after) {
            // Shared between snapshots, as most are.
            (Some(before), Some(after)) if Arc::ptr_eq(before, after) => {}
            (Some(before), Some(after)) if before.differing(after).are_volatile::<T>() => {}
            (before, after) => tell(before, after),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn container(name: &str, verdict: i32) -> Arc<Container> {
        let labels = [("tier".to_owned(), "web".to_owned())].into();
        Arc::new(Container { name: name.into(), host: "h1".into(), verdict, labels, pid: 7, ..Default::default() })
    }

    fn names<T: Detail>(page: &Page<T>) -> Vec<&str> {
        page.items.iter().map(|item| item.key().0).collect()
    }

    #[test]
    fn fields_are_copied_by_name_and_unknown_ones_are_named() {
        let all = container("web", 3);
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let fields = Fields::named::<Container>(&names(&["verdict"])).expect("a field");
        let expected = Container { name: "web".into(), host: "h1".into(), verdict: 3, ..Default::default() };
        assert_eq!(all.pick(fields), expected);
        assert_eq!(all.pick(Fields::named::<Container>(&[]).expect("all")), *all);
        let error = Fields::named::<Container>(&names(&["pid", "labels.tier"])).expect_err("no such field");
        assert!(error.to_string().starts_with("a container has no field \"labels.tier\"; it has name, host, tenant"));
        assert!(Container::FIELDS.len() <= 64 && Service::FIELDS.len() <= 64);
    }

    #[test]
    fn pages_go_on_where_the_last_one_ended_whatever_came_and_went() {
        let items: Vec<_> = ["a", "b", "c", "d", "e"].map(|name| container(name, 1)).into();
        let selection = Selection { limit: 2, ..Selection::default() };
        let first = select(&items, &selection, None, Fields::ALL);
        assert_eq!((names(&first), first.cut), (vec!["a", "b"], true));
        let last = first.last("z").expect("more follow");
        assert_eq!((last.zone.as_str(), last.host.as_str(), last.container.as_str()), ("z", "h1", "b"));
        let later: Vec<_> = ["a", "aa", "c", "d"].map(|name| container(name, 1)).into();
        let next = select(&later, &selection, Some(("b", "")), Fields::ALL);
        assert_eq!((names(&next), next.cut, next.last("z")), (vec!["c", "d"], false, None));
    }

    #[test]
    fn filters_select_and_what_does_not_match_is_no_next_page() {
        let items: Vec<_> = (0..10).map(|n| container(&format!("c{n}"), i32::from(n == 4) * 2 + 1)).collect();
        let critical = Selection { verdicts: vec![3], limit: 1, ..Selection::default() };
        let page = select(&items, &critical, None, Fields::ALL);
        assert_eq!((names(&page), page.cut), (vec!["c4"], false));
        let one = Selection { container: "c7".into(), ..Selection::default() };
        assert_eq!(names(&select(&items, &one, None, Fields::ALL)), ["c7"]);
        let labels = [("tier".to_owned(), "db".to_owned())].into();
        let none = Selection { labels, ..Selection::default() };
        assert!(select(&items, &none, None, Fields::ALL).items.is_empty());
    }

    #[test]
    fn a_page_has_a_bound_in_bytes() {
        let large =
            |name: &str| Container { name: name.into(), problem: "x".repeat(MAX_PAGE_BYTES), ..Default::default() };
        let mut page = Page::new(10);
        ["a", "b"].into_iter().for_each(|name| page.push(large(name)));
        assert_eq!((page.items.len(), page.cut), (1, true));
        assert_eq!(Page::<Container>::new(u32::MAX).missing() as usize, MAX_PAGE);
    }

    #[test]
    fn times_and_latencies_alone_are_no_change() {
        let service = |last_answer: &str, verdict| {
            vec![Arc::new(Service {
                name: "http".into(),
                last_answer: last_answer.into(),
                verdict,
                ..Default::default()
            })]
        };
        let count = |old: &[Arc<Service>], new: &[Arc<Service>]| {
            let mut count = 0;
            changes(old, new, |_, _| count += 1);
            count
        };
        assert_eq!(count(&service("a", 1), &service("b", 1)), 0);
        assert_eq!(count(&service("a", 1), &service("a", 2)), 1);
    }

    proptest! {
        #[test]
        fn changes_lead_from_the_old_list_to_the_new_one(
            old in prop::collection::btree_map("[a-d]{1,2}", 0..3, 0..12),
            new in prop::collection::btree_map("[a-d]{1,2}", 0..3, 0..12),
        ) {
            let list = |map: &std::collections::BTreeMap<String, i32>| -> Vec<Arc<Container>> {
                map.iter().map(|(name, verdict)| container(name, *verdict)).collect()
            };
            let mut made = old.clone();
            changes(&list(&old), &list(&new), |before, after| {
                assert_eq!(before.map(|before| before.verdict), before.and_then(|before| old.get(&before.name).copied()));
                assert_ne!(before, after);
                match (before, after) {
                    (_, Some(after)) => drop(made.insert(after.name.clone(), after.verdict)),
                    (Some(before), None) => drop(made.remove(&before.name)),
                    (None, None) => unreachable!(),
                }
            });
            assert_eq!(made, new);
        }

        #[test]
        fn all_pages_together_are_the_list(count in 0usize..50, limit in 1u32..9) {
            let items: Vec<_> = (0..count).map(|n| container(&format!("c{n:02}"), 1)).collect();
            let selection = Selection { limit, ..Selection::default() };
            let (mut seen, mut after) = (Vec::new(), None::<Position>);
            loop {
                let key = after.as_ref().map(|after| (after.container.as_str(), after.service.as_str()));
                let page = select(&items, &selection, key, Fields::ALL);
                after = page.last("z");
                seen.extend(page.items.into_iter().map(|item| item.name));
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(seen, items.iter().map(|item| item.name.clone()).collect::<Vec<_>>());
        }
    }
}
