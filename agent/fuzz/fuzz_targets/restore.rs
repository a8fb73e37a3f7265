//! What comes as a snapshot: any bytes, one that was changed on its way, and rows that nobody wrote in chunks whose checksums
//! fit. It is restored as it was or refused, and what is restored can be used and sent on.
#![no_main]

#[path = "store/memory.rs"]
mod memory;

use std::sync::LazyLock;

use bytes::{BufMut, Bytes};
use libfuzzer_sys::fuzz_target;
use memory::Memory;
use ringmesh_proto::{
    etcd::etcdserverpb::{
        AlarmRequest, CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest,
    },
    store::{Command, command::Change},
};
use ringmesh_store::kv::{Kv, Restore, RestoreError, Settings};

/// Of a chunk's payload, and what stands around it.
const MAX_PAYLOAD: usize = (64 << 10) - 8;
const FRAME: usize = 8;

/// A snapshot with history, a lease, an alarm and a compaction.
static SNAPSHOT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut kv = Kv::open(Memory::default(), Settings::default()).expect("an empty file is an empty store");
    let put = |key: &'static str, lease| PutRequest { key: key.into(), value: "v".into(), lease, ..Default::default() };
    let changes = [
        Change::LeaseGrant(LeaseGrantRequest { ttl: 60, id: 7 }),
        Change::Put(put("a", 0)),
        Change::Put(put("a", 7)),
        Change::Put(put("b", 0)),
        Change::DeleteRange(DeleteRangeRequest { key: "b".into(), ..Default::default() }),
        Change::Compaction(CompactionRequest { revision: 3, physical: false }),
        Change::Alarm(AlarmRequest { action: 1, member_id: 5, alarm: 1 }),
    ];
    for (index, change) in (1..).zip(changes) {
        kv.apply(index, 1, &Command { id: index, change: Some(change) }).expect("they are good");
    }
    checkpoint(&mut kv);
    bytes_of(&kv)
});

fuzz_target!(|bytes: &[u8]| {
    let [mode, step, rest @ ..] = bytes else { return };
    let step = usize::from(*step) + 1;
    match mode % 4 {
        0 => drop(restore(rest, step)),
        1 => {
            let changed = edit(SNAPSHOT.clone(), rest);
            let restored = restore(&changed, step);
            assert_eq!(restored.is_ok(), changed == *SNAPSHOT, "nothing that was changed is restored");
        }
        2 => use_it(restore(&framed(&edit(payload_of(&SNAPSHOT), rest), step), usize::MAX)),
        // Any rows after a head that is one; the first byte says how much of the bytes is its meta.
        _ => {
            let [len, rest @ ..] = rest else { return };
            let (meta, rows) = rest.split_at(rest.len().min(usize::from(*len)));
            let mut payload = b"ringmesh\x01\0\0\0".to_vec();
            payload.put_u64_le(99);
            payload.put_u32_le(meta.len() as u32);
            payload.extend_from_slice(&[meta, rows].concat());
            use_it(restore(&framed(&payload, step), usize::MAX));
        }
    }
});

/// Pushed in pieces of this length.
fn restore(bytes: &[u8], step: usize) -> Result<Kv, RestoreError> {
    let mut restore = Restore::new(Memory::default(), Settings::default())?;
    bytes.chunks(step).try_for_each(|piece| restore.push(piece))?;
    restore.finish()
}

/// An edit is what it is, where, and what with.
fn edit(mut bytes: Vec<u8>, edits: &[u8]) -> Vec<u8> {
    for [what, high, low, with] in edits.as_chunks::<4>().0.iter().copied() {
        let at = usize::from(u16::from_be_bytes([high, low])) % (bytes.len() + 1);
        let end = bytes.len().min(at + usize::from(with));
        match what % 5 {
            0 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= with),
            1 => bytes.insert(at, with),
            2 => drop(bytes.drain(at..end)),
            3 => bytes.extend_from_within(at..end),
            _ => bytes.truncate(bytes.len() - usize::from(with).min(bytes.len())),
        }
    }
    bytes
}

/// What is used of it must not panic, nor be changed by another round.
fn use_it(restored: Result<Kv, RestoreError>) {
    let Ok(mut kv) = restored else { return };
    let range =
        RangeRequest { key: Bytes::from_static(b"\0"), range_end: Bytes::from_static(b"\0"), ..Default::default() };
    let all = kv.range(&range).expect("all can be read");
    let hash = kv.begin_hash(0).and_then(|work| work.run()).expect("all can be summed").hash;
    let mut again = restore(&bytes_of(&kv), usize::MAX).expect("what was restored can be sent on");
    assert_eq!(again.range(&range), Ok(all));
    assert_eq!(again.begin_hash(0).and_then(|work| work.run()).map(|sum| sum.hash), Ok(hash));
    let Some(index) = kv.applied().index.checked_add(1) else { return };
    let put = PutRequest { key: Bytes::from("a"), value: Bytes::from("new"), ..PutRequest::default() };
    let command = Command { id: 1, change: Some(Change::Put(put)) };
    assert_eq!(kv.apply(index, 1, &command), again.apply(index, 1, &command));
    checkpoint(&mut kv);
    restore(&bytes_of(&kv), usize::MAX).expect("what was written can be sent on");
}

fn checkpoint(kv: &mut Kv) {
    let Some(checkpoint) = kv.begin_checkpoint() else { return };
    let written = checkpoint.write().expect("memory does not fail");
    kv.end_checkpoint(written);
}

fn bytes_of(kv: &Kv) -> Vec<u8> {
    kv.snapshot().of_cluster(99).flat_map(|chunk| chunk.expect("memory does not fail")).collect()
}

fn payload_of(mut stream: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    while let Some((head, _)) = stream.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*head) as usize;
        payload.extend_from_slice(&stream[4..4 + length]);
        stream = &stream[length + FRAME..];
    }
    payload
}

/// In chunks of this length, as a snapshot is.
fn framed(payload: &[u8], step: usize) -> Vec<u8> {
    let (mut stream, mut hasher) = (Vec::new(), crc32fast::Hasher::new());
    for chunk in payload.chunks((step * 16).min(MAX_PAYLOAD)) {
        hasher.update(chunk);
        stream.put_u32_le(chunk.len() as u32);
        stream.put_slice(chunk);
        stream.put_u32_le(hasher.clone().finalize());
    }
    stream
}
