//! Containers that have a member of their own inside: what their cell says to it, and what of its words is believed.
//!
//! The container is not to be trusted: whoever rents it may say anything in its member's place. A letter of it is taken
//! apart and put together again. It speaks for itself alone, as what it is, and only in probes and gossip; of others it can
//! repeat what the agent takes them for, and accuse whom the agent does not hear either.

use std::{collections::VecDeque, sync::Arc};

use bytes::{Buf, BufMut};
use foca::{Codec, Header, Member, Message, PostcardCodec, State};
use ringmesh_member::message::{Order, pack};

use super::member::{MAX_LETTER, Slot};
use crate::membership::Refused;

/// News of members in one letter: more do not fit in.
const MAX_NEWS: usize = MAX_LETTER / 4;

/// Packets for members inside, until they are handed out after the turn that made them.
#[derive(Default)]
pub(super) struct Outbox {
    packets: VecDeque<(Arc<str>, Vec<u8>)>,
}

impl Outbox {
    pub(super) fn begin(&mut self, container: &Arc<str>, me: Slot, seed: u64) {
        self.put(container, Order::Begin { me, seed });
    }

    pub(super) fn roster(&mut self, container: &Arc<str>, gone: &[Slot], come: &[Slot]) {
        let (gone, come) = (pack(gone.iter().copied()), pack(come.iter().copied()));
        self.put(container, Order::Roster { gone: &gone, come: &come });
    }

    pub(super) fn letter(&mut self, container: &Arc<str>, bytes: &[u8]) {
        self.put(container, Order::Letter(bytes));
    }

    pub(super) fn take(&mut self) -> Option<(Arc<str>, Vec<u8>)> {
        self.packets.pop_front()
    }

    fn put(&mut self, container: &Arc<str>, order: Order<'_>) {
        let packet = order.encode().expect("64 slots and a letter are shorter than a packet");
        self.packets.push_back((Arc::clone(container), packet));
    }
}

/// Of a letter of this member to this slot what may be delivered; `None` if it is of an earlier life.
pub(super) fn examine(
    mut bytes: &[u8],
    me: Slot,
    to: u16,
    believed: impl Fn(&Member<Slot>) -> bool,
) -> Result<Option<Vec<u8>>, Refused> {
    if bytes.len() > MAX_LETTER {
        return Err(Refused::Malformed);
    }
    let header: Header<Slot> = PostcardCodec.decode_header(&mut bytes).map_err(|_| Refused::Malformed)?;
    let may = match header.message {
        Message::Ping(_)
        | Message::Ack(_)
        | Message::PingReq { .. }
        | Message::IndirectPing { .. }
        | Message::IndirectAck { .. }
        | Message::ForwardedAck { .. }
        | Message::Gossip => true,
        // Members are introduced by the agent, and nobody but it declares another one dead.
        Message::Announce | Message::Feed | Message::Broadcast | Message::TurnUndead => false,
    };
    if !may || header.src.slot != me.slot || header.dst.slot != to || to == me.slot {
        return Err(Refused::Spoofed);
    }
    let mut news = Vec::new();
    if bytes.len() >= 2 {
        let count = usize::from(bytes.get_u16());
        if count > MAX_NEWS {
            return Err(Refused::Malformed);
        }
        for _ in 0..count {
            news.push(PostcardCodec.decode_member(&mut bytes).map_err(|_| Refused::Malformed)?);
        }
    }
    if !bytes.is_empty() {
        return Err(Refused::Malformed);
    }
    if header.src != me {
        return Ok(None);
    }
    news.retain(
        |member: &Member<Slot>| if member.id().slot == me.slot { is_alive(member, me) } else { believed(member) },
    );
    Ok(Some(letter(&header, &news)))
}

/// Whether news of a member say no more than the agent knows: `known` is its own opinion, `silent` what it has evidence of.
pub(super) fn is_known(news: &Member<Slot>, known: &Member<Slot>, silent: bool) -> bool {
    let worse = news.state() != State::Alive && news.state() != known.state();
    news.id() == known.id() && news.incarnation() <= known.incarnation() && (!worse || silent)
}

fn is_alive(news: &Member<Slot>, me: Slot) -> bool {
    *news.id() == me && news.state() == State::Alive
}

/// As foca writes it; shorter than what it was made of.
fn letter(header: &Header<Slot>, news: &[Member<Slot>]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MAX_LETTER);
    let ours = "it was read from as many bytes";
    PostcardCodec.encode_header(header, &mut bytes).expect(ours);
    bytes.put_u16(news.len() as u16);
    for member in news {
        PostcardCodec.encode_member(member, &mut bytes).expect(ours);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Slot = Slot { slot: 3, generation: 2 };
    const OTHER: Slot = Slot { slot: 4, generation: 1 };
    const THIRD: Slot = Slot { slot: 5, generation: 1 };

    fn header(message: Message<Slot>) -> Header<Slot> {
        Header { src: ME, src_incarnation: 0, dst: OTHER, message }
    }

    /// The news that are left of a letter.
    fn left(header: &Header<Slot>, news: &[Member<Slot>]) -> Result<Option<Vec<Member<Slot>>>, Refused> {
        let known = [Member::new(OTHER, 1, State::Alive), Member::new(THIRD, 1, State::Alive)];
        let believed =
            |member: &Member<Slot>| known.iter().any(|known| is_known(member, known, member.id().slot == THIRD.slot));
        let Some(letter) = examine(&letter(header, news), ME, OTHER.slot, believed)? else { return Ok(None) };
        let mut bytes = letter.as_slice();
        assert_eq!(&PostcardCodec.decode_header(&mut bytes).map(|header: Header<Slot>| header.src), &Ok(ME));
        let count = bytes.get_u16();
        Ok(Some((0..count).map(|_| PostcardCodec.decode_member(&mut bytes).expect("it was written")).collect()))
    }

    #[test]
    fn it_speaks_for_itself_and_of_others_what_is_known() {
        let member = |id, incarnation, state| Member::new(id, incarnation, state);
        let stranger = Slot { slot: 9, generation: 1 };
        let cases = [
            (member(ME, 7, State::Alive), true, "a suspicion of it is refuted"),
            (member(ME, 0, State::Down), false, "its end is for the agent to tell"),
            (member(Slot { generation: 3, ..ME }, 0, State::Alive), false, "another life"),
            (member(OTHER, 1, State::Alive), true, "as the agent has it"),
            (member(OTHER, 2, State::Alive), false, "what only the other one could say"),
            (member(OTHER, 1, State::Suspect), false, "one that is heard"),
            (member(OTHER, 1, State::Down), false, "one that is heard"),
            (member(THIRD, 1, State::Suspect), true, "one that is not heard"),
            (member(THIRD, 1, State::Down), true, "one that is not heard"),
            (member(Slot { generation: 2, ..THIRD }, 0, State::Down), false, "another life"),
            (member(stranger, 0, State::Alive), false, "nobody"),
        ];
        for (news, believed, why) in cases {
            let expected = if believed { vec![news.clone()] } else { Vec::new() };
            assert_eq!(left(&header(Message::Gossip), &[news]), Ok(Some(expected)), "{why}");
        }
    }

    #[test]
    fn what_no_member_says_to_another_is_refused() {
        for message in [Message::Announce, Message::Feed, Message::Broadcast, Message::TurnUndead] {
            assert_eq!(left(&header(message), &[]), Err(Refused::Spoofed));
        }
        let ping = header(Message::Ping(1));
        assert_eq!(left(&Header { src: OTHER, ..ping.clone() }, &[]), Err(Refused::Spoofed));
        assert_eq!(left(&Header { dst: THIRD, ..ping.clone() }, &[]), Err(Refused::Spoofed), "to whom it was not sent");
        assert_eq!(left(&Header { src: Slot { generation: 1, ..ME }, ..ping.clone() }, &[]), Ok(None));
        let good = letter(&ping, &[]);
        let never = |_: &Member<Slot>| false;
        for bad in [&[][..], &good[..good.len() - 1], &[&good[..], &[0]].concat(), &[0xff; 128], &[0; 129]] {
            assert_eq!(examine(bad, ME, OTHER.slot, never), Err(Refused::Malformed), "{bad:?}");
        }
    }
}
