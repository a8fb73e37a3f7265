//! What a SWIM message says, before foca is given it: who it is about, and without what is not believed. And one that foca does
//! not send.

use bytes::{Buf, BufMut, BytesMut};
use foca::{Codec, Header, Identity, Member, Message, PostcardCodec};
use serde::{Serialize, de::DeserializeOwned};

use super::{Refused, SwimState};

/// A message as far as its caller needs to know it, among members of one kind.
pub(crate) struct News<T> {
    pub(crate) header: Header<T>,
    /// Whose state it tells, of those that are believed.
    pub(crate) about: Vec<T>,
    /// The message without what is not believed, if that is another one.
    pub(crate) payload: Option<BytesMut>,
}

/// Reads a message. `believes` says whether this life of a member may be, or be over, as it is told.
pub(crate) fn read<T>(payload: &[u8], mut believes: impl FnMut(&T, SwimState) -> bool) -> Result<News<T>, Refused>
where
    T: Clone + PartialEq + Serialize + DeserializeOwned,
{
    let mut rest = payload;
    let header: Header<T> = PostcardCodec.decode_header(&mut rest).map_err(|_| Refused::Malformed)?;
    let mut members = Vec::new();
    let mut all = true;
    // As foca lays it out: a count of two bytes, then as many members.
    if rest.remaining() >= 2 && header.message != Message::Broadcast {
        for _ in 0..rest.get_u16() {
            let member: Member<T> = PostcardCodec.decode_member(&mut rest).map_err(|_| Refused::Malformed)?;
            if !believes(member.id(), member.state().into()) {
                all = false;
            } else {
                members.push(member);
            }
        }
    }
    let about = members.iter().map(|member| member.id().clone()).collect();
    let payload = if all { None } else { Some(write(&header, &members)?) };
    Ok(News { header, about, payload })
}

fn write<T>(header: &Header<T>, members: &[Member<T>]) -> Result<BytesMut, Refused>
where
    T: Serialize + DeserializeOwned,
{
    let mut message = BytesMut::new();
    PostcardCodec.encode_header(header, &mut message).map_err(|_| Refused::Malformed)?;
    message.put_u16(u16::try_from(members.len()).map_err(|_| Refused::Malformed)?);
    for member in members {
        PostcardCodec.encode_member(member, &mut message).map_err(|_| Refused::Malformed)?;
    }
    Ok(message)
}

/// Tells a suspect that it is suspected, so that it refutes: Lifeguard's buddy system (arXiv 1707.00788 §IV-C).
///
/// Without it, in a small pool the suspicion may never be sent to the one whom it concerns.
pub(crate) fn warning<T>(src: &T, suspect: &Member<T>) -> Result<BytesMut, Refused>
where
    T: Identity + Serialize + DeserializeOwned,
{
    gossip(src, suspect.id(), suspect)
}

/// Tells `dst` of one member.
pub(crate) fn gossip<T>(src: &T, dst: &T, of: &Member<T>) -> Result<BytesMut, Refused>
where
    T: Identity + Serialize + DeserializeOwned,
{
    let header = Header {
        src: src.clone(),
        // The lowest says nothing that the receiver does not know.
        src_incarnation: 0,
        dst: dst.clone(),
        message: Message::Gossip,
    };
    write(&header, std::slice::from_ref(of))
}
