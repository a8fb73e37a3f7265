//! Containers and services as lists and watches treat them: their order, which are selected, what of them is shown.
//!
//! It owns the bounds of one answer. It knows nobody who could be asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use prost::Message;
use ringmesh_node::{ContainerRow, ServiceRow, View, health::spec::has_labels};
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

    /// One of this host's, as its snapshot has it.
    type Row: Row<Self>;

    /// A copy of these fields alone.
    fn pick(&self, fields: Fields) -> Self;

    /// The fields in which both differ.
    fn differing(&self, other: &Self) -> Fields;

    /// How many there are, by the summary of a host or of a zone.
    fn count(digest: Option<&Digest>) -> u32;

    /// This host's.
    fn own(view: &View) -> &Arc<Vec<Arc<Self::Row>>>;

    /// Those of an answer.
    fn in_answer(answer: &mut QueryResponse) -> &mut Vec<Self>;

    /// The question for them.
    fn query(selection: Selection) -> QueryRequest;
}

/// What a snapshot keeps of an object.
pub trait Row<T>: PartialEq + Send + Sync {
    /// As [`Detail::key`].
    fn key(&self) -> Key<'_>;

    /// As [`Detail::is_selected`].
    fn is_selected(&self, selection: &Selection) -> bool;

    /// The revision that changed it last, but for volatile fields.
    fn changed(&self) -> u64;

    /// The object.
    fn show(&self) -> T;
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
        services, hold, operation, cell, inside,
    );

    fn key(&self) -> Key<'_> {
        (&self.name, "")
    }

    fn host(&self) -> &str {
        &self.host
    }

    fn is_selected(&self, selection: &Selection) -> bool {
        is_selected(selection, self.key(), self.verdict, &self.labels) && has(&selection.states, self.state)
    }

    type Row = ContainerRow;

    fn count(digest: Option<&Digest>) -> u32 {
        digest.map_or(0, |digest| digest.containers)
    }

    fn own(view: &View) -> &Arc<Vec<Arc<ContainerRow>>> {
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
    const VOLATILE: &'static [&'static str] = &["last_answer", "last_latency", "last_probe", "normal_latency"];

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
        flapping,
        slow,
        normal_latency,
    );

    fn key(&self) -> Key<'_> {
        (&self.container, &self.name)
    }

    fn host(&self) -> &str {
        &self.host
    }

    fn is_selected(&self, selection: &Selection) -> bool {
        is_selected(selection, self.key(), self.verdict, &self.labels)
    }

    type Row = ServiceRow;

    fn count(digest: Option<&Digest>) -> u32 {
        digest.map_or(0, |digest| digest.services)
    }

    fn own(view: &View) -> &Arc<Vec<Arc<ServiceRow>>> {
        &view.services
    }

    fn in_answer(answer: &mut QueryResponse) -> &mut Vec<Self> {
        &mut answer.services
    }

    fn query(selection: Selection) -> QueryRequest {
        QueryRequest { services: true, selection: Some(selection), ..QueryRequest::default() }
    }
}

impl Row<Container> for ContainerRow {
    fn key(&self) -> Key<'_> {
        (&self.spec.name, "")
    }

    fn is_selected(&self, selection: &Selection) -> bool {
        is_selected(selection, self.key(), self.verdict as i32, &self.spec.labels)
            && has(&selection.states, self.state() as i32)
    }

    fn changed(&self) -> u64 {
        self.changed
    }

    fn show(&self) -> Container {
        Self::show(self)
    }
}

impl Row<Service> for ServiceRow {
    fn key(&self) -> Key<'_> {
        (&self.spec.container().name, &self.spec.name)
    }

    fn is_selected(&self, selection: &Selection) -> bool {
        is_selected(selection, self.key(), self.told.verdict as i32, &self.spec.container().labels)
    }

    fn changed(&self) -> u64 {
        self.changed
    }

    fn show(&self) -> Service {
        Self::show(self)
    }
}

/// Whether the filters that containers and services have in common let one pass. A container has no service's name.
fn is_selected(selection: &Selection, key: Key<'_>, verdict: i32, labels: &BTreeMap<String, String>) -> bool {
    let (container, service) = key;
    (selection.container.is_empty() || container == selection.container)
        && (selection.service.is_empty() || service.is_empty() || service == selection.service)
        && has(&selection.verdicts, verdict)
        && has_labels(labels, &selection.labels)
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

/// Those of one host's rows that are selected, changed after the revision `since`, and come after `after`, if that is a place
/// on this host.
pub fn select<T: Detail>(
    rows: &[Arc<T::Row>],
    selection: &Selection,
    since: Option<u64>,
    after: Option<Key<'_>>,
    fields: Fields,
) -> Page<T> {
    let mut page = Page::new(selection.limit);
    let begins = |row: &Arc<T::Row>| {
        let (container, _) = row.key();
        after.is_some_and(|after| row.key() <= after) || container < selection.container.as_str()
    };
    for row in &rows[rows.partition_point(begins)..] {
        if page.cut || (!selection.container.is_empty() && row.key().0 != selection.container) {
            break;
        }
        if since.is_none_or(|since| row.changed() > since) && row.is_selected(selection) {
            // What is one too many need not be made.
            if page.is_full() {
                page.cut = true;
            } else {
                let object = row.show();
                page.push(if fields == Fields::ALL { object } else { object.pick(fields) });
            }
        }
    }
    page
}

/// Makes a list, sorted by key, what it became: without `removed` containers, and with `changed` objects.
pub fn update<T: Detail>(objects: &[Arc<T>], removed: &BTreeSet<String>, changed: Vec<T>) -> Vec<Arc<T>> {
    let mut updated = Vec::with_capacity(objects.len() + changed.len());
    let mut changed: Vec<Arc<T>> = changed.into_iter().map(Arc::new).collect();
    // As they should come already.
    changed.sort_by(|a, b| a.key().cmp(&b.key()));
    let mut changed = changed.into_iter().peekable();
    for object in objects.iter().filter(|object| !removed.contains(object.key().0)) {
        while let Some(new) = changed.next_if(|new| new.key() < object.key()) {
            updated.push(new);
        }
        updated.push(changed.next_if(|new| new.key() == object.key()).unwrap_or_else(|| Arc::clone(object)));
    }
    updated.extend(changed);
    updated
}

/// The objects of `rows`. Those whose row is among `old` are shared with the `shown` ones of these.
pub fn show<T: Detail>(old: &[Arc<T::Row>], shown: &[Arc<T>], rows: &[Arc<T::Row>]) -> Vec<Arc<T>> {
    let mut before = old.iter().zip(shown).peekable();
    let show = |row: &Arc<T::Row>| {
        while before.next_if(|(old, _)| old.key() < row.key()).is_some() {}
        match before.next_if(|(old, _)| Arc::ptr_eq(old, row)) {
            Some((_, object)) => Arc::clone(object),
            None => Arc::new(row.show()),
        }
    };
    rows.iter().map(show).collect()
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
mod tests;
