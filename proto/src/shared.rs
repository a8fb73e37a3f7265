//! Messages that many hold: what a host says of itself is kept, compared, sealed and passed on, and is the same throughout.
//!
//! `build.rs` names the messages that are held so.

use std::{fmt, ops::Deref, sync::Arc};

use prost::{
    DecodeError, Message,
    bytes::{Buf, BufMut},
    encoding::{DecodeContext, WireType},
};

/// A message that is cloned by counting who holds it.
#[derive(Clone, Default, Eq)]
pub struct Shared<T>(Arc<T>);

impl<T> Shared<T> {
    /// To change it: a copy is made if others hold it, too.
    pub fn make_mut(&mut self) -> &mut T
    where
        T: Clone,
    {
        Arc::make_mut(&mut self.0)
    }

    /// To change it, if nobody else holds it.
    pub fn get_mut(&mut self) -> Option<&mut T> {
        Arc::get_mut(&mut self.0)
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> From<T> for Shared<T> {
    fn from(message: T) -> Self {
        Self(Arc::new(message))
    }
}

impl<T: PartialEq> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: Message + Clone + Default> Message for Shared<T> {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        self.0.encode_raw(buf);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        self.make_mut().merge_field(tag, wire_type, buf, context)
    }

    fn encoded_len(&self) -> usize {
        self.0.encoded_len()
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::HostRecord;

    #[test]
    fn it_is_on_the_wire_what_it_holds() {
        let record = HostRecord { host: 7, name: "h7".into(), seal: vec![1; 70].into(), ..HostRecord::default() };
        let shared = Shared::from(record.clone());
        assert_eq!(shared.encode_to_vec(), record.encode_to_vec());
        assert_eq!(shared.encoded_len(), record.encoded_len());
        assert_eq!(Shared::decode(&record.encode_to_vec()[..]), Ok(shared));
    }

    #[test]
    fn whoever_changes_it_changes_only_its_own() {
        let mut one = Shared::from(HostRecord { seq: 1, ..HostRecord::default() });
        let other = one.clone();
        assert!(one.get_mut().is_none());
        one.make_mut().seq = 2;
        assert_eq!((one.seq, other.seq), (2, 1));
        assert!(one.get_mut().is_some());
    }
}
