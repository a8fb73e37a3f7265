//! What a SWIM message says, before foca is given it: who it is about, and without what is not believed.

use bytes::{Buf, BufMut, BytesMut};
use foca::{Codec, Header, Message, PostcardCodec};
use ringmesh_proto::{HostId, member::Member};

use super::{Refused, SwimState, swim::SwimMember};

/// A message as far as its caller needs to know it.
pub(super) struct News {
    pub(super) header: Header<SwimMember>,
    /// Whose state it tells.
    pub(super) about: Vec<HostId>,
    /// The message without what is not believed, if that is another one.
    pub(super) payload: Option<BytesMut>,
}

/// Reads a message. `believes` says whether this life of a host may be, or be over, as it is told.
pub(super) fn read(payload: &[u8], mut believes: impl FnMut(Member, SwimState) -> bool) -> Result<News, Refused> {
    let mut rest = payload;
    let header: Header<SwimMember> = PostcardCodec.decode_header(&mut rest).map_err(|_| Refused::Malformed)?;
    let mut members = Vec::new();
    let mut all = true;
    // As foca lays it out: a count of two bytes, then as many members.
    if rest.remaining() >= 2 && header.message != Message::Broadcast {
        for _ in 0..rest.get_u16() {
            let member: foca::Member<SwimMember> =
                PostcardCodec.decode_member(&mut rest).map_err(|_| Refused::Malformed)?;
            if !believes(member.id().0, member.state().into()) {
                all = false;
            } else {
                members.push(member);
            }
        }
    }
    let about = members.iter().map(|member| member.id().0.id).collect();
    let payload = if all { None } else { Some(write(&header, &members)?) };
    Ok(News { header, about, payload })
}

fn write(header: &Header<SwimMember>, members: &[foca::Member<SwimMember>]) -> Result<BytesMut, Refused> {
    let mut message = BytesMut::new();
    PostcardCodec.encode_header(header, &mut message).map_err(|_| Refused::Malformed)?;
    message.put_u16(u16::try_from(members.len()).map_err(|_| Refused::Malformed)?);
    for member in members {
        PostcardCodec.encode_member(member, &mut message).map_err(|_| Refused::Malformed)?;
    }
    Ok(message)
}
