//! Messages as JSON, in the form that etcd's gateway gives them: names as in the .proto files, 64-bit numbers as text,
//! bytes in base64, and no fields that are zero.

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use http_body_util::BodyExt;
use prost::Message;
use prost_reflect::{DeserializeOptions, DynamicMessage, MessageDescriptor, SerializeOptions};
use tonic::{Status, body::Body, codegen::http::StatusCode};

/// The message that `text` says, encoded; of no text at all the empty one. Fields that are not known are left out.
pub(super) fn read(descriptor: MessageDescriptor, text: &[u8]) -> Result<Bytes, Status> {
    if text.trim_ascii().is_empty() {
        return Ok(Bytes::new());
    }
    let mut json = serde_json::Deserializer::from_slice(text);
    let message = deserialize(descriptor, &mut json)?;
    Ok(message.encode_to_vec().into())
}

/// The messages that `body` says one after the other, as they come. A mistake is the last item.
pub(super) fn read_all(
    descriptor: MessageDescriptor,
    body: Body,
    max_bytes: usize,
) -> impl Stream<Item = Result<Bytes, Status>> + Send + 'static {
    let reader =
        Reader { descriptor, body: Some(body), waiting: BytesMut::new(), bounds: Bounds::default(), max_bytes };
    futures_util::stream::unfold(reader, |mut reader| async {
        let read = reader.next().await.transpose()?;
        if read.is_err() {
            reader.body = None;
            reader.waiting.clear();
        }
        Some((read, reader))
    })
}

/// Encoded `message` as JSON.
pub(super) fn write(descriptor: MessageDescriptor, message: Bytes) -> Result<String, Status> {
    let broken = |error: &dyn std::fmt::Display| Status::internal(format!("the answer makes no JSON: {error}"));
    let message = DynamicMessage::decode(descriptor, message).map_err(|error| broken(&error))?;
    let mut text = Vec::new();
    let options = SerializeOptions::new().use_proto_field_name(true);
    message
        .serialize_with_options(&mut serde_json::Serializer::new(&mut text), &options)
        .map_err(|error| broken(&error))?;
    String::from_utf8(text).map_err(|error| broken(&error))
}

/// The answer to what failed.
pub(super) fn error(status: &Status) -> String {
    let code = i32::from(status.code());
    serde_json::json!({ "error": status.message(), "message": status.message(), "code": code }).to_string()
}

/// The last line of a stream that failed.
pub(super) fn stream_error(status: &Status, http: StatusCode) -> String {
    let error = serde_json::json!({
        "grpc_code": i32::from(status.code()),
        "http_code": http.as_u16(),
        "message": status.message(),
        "http_status": http.canonical_reason().unwrap_or_default(),
    });
    format!("{}\n", serde_json::json!({ "error": error }))
}

struct Reader {
    descriptor: MessageDescriptor,
    /// None once all of it is here.
    body: Option<Body>,
    waiting: BytesMut,
    bounds: Bounds,
    max_bytes: usize,
}

/// Finds where a message ends, and looks at each byte once however small the pieces are in which they come.
#[derive(Debug, Default)]
struct Bounds {
    /// Bytes that were looked at.
    seen: usize,
    /// Braces and brackets that are open.
    depth: usize,
    in_text: bool,
    escaped: bool,
}

impl Bounds {
    /// The length of the first message in `waiting`, once it is whole or cannot be one. It begins anew then.
    fn end(&mut self, waiting: &[u8]) -> Option<usize> {
        while let Some(byte) = waiting.get(self.seen) {
            self.seen += 1;
            if self.ends_with(*byte) {
                return Some(std::mem::take(self).seen);
            }
        }
        None
    }

    fn ends_with(&mut self, byte: u8) -> bool {
        if self.in_text {
            self.in_text = self.escaped || byte != b'"';
            self.escaped = !self.escaped && byte == b'\\';
            return self.depth == 0 && !self.in_text;
        }
        match byte {
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            b'"' => {
                self.in_text = true;
                return false;
            }
            byte => return self.depth == 0 && !byte.is_ascii_whitespace(),
        }
        self.depth == 0
    }
}

impl Reader {
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            let Some(body) = &mut self.body else { return Ok(None) };
            match body.frame().await {
                None => self.body = None,
                Some(Err(_)) => return Err(Status::cancelled("the request broke off")),
                Some(Ok(frame)) => {
                    if let Ok(more) = frame.into_data() {
                        self.waiting.extend_from_slice(&more);
                    }
                }
            }
            if self.waiting.len() > self.max_bytes {
                return Err(super::too_large());
            }
        }
    }

    /// The first message of what waits, if it is whole.
    fn take(&mut self) -> Result<Option<Bytes>, Status> {
        let end = match self.bounds.end(&self.waiting) {
            Some(end) => end,
            None if self.body.is_some() || self.waiting.trim_ascii().is_empty() => return Ok(None),
            // It says itself what is missing.
            None => self.waiting.len(),
        };
        let text = self.waiting.split_to(end);
        let message = read(self.descriptor.clone(), &text)?;
        Ok(Some(message))
    }
}

fn deserialize(
    descriptor: MessageDescriptor,
    json: &mut serde_json::Deserializer<serde_json::de::SliceRead<'_>>,
) -> Result<DynamicMessage, Status> {
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    DynamicMessage::deserialize_with_options(descriptor, json, &options)
        .map_err(|error| Status::invalid_argument(error.to_string()))
}

#[cfg(test)]
mod tests {
    use prost_reflect::DescriptorPool;
    use ringmesh_proto::etcd::{DESCRIPTORS, etcdserverpb::RangeRequest, mvccpb::Event};

    use super::*;

    fn message(name: &str) -> MessageDescriptor {
        DescriptorPool::decode(DESCRIPTORS).unwrap().get_message_by_name(name).unwrap()
    }

    #[test]
    fn requests_are_read_in_every_spelling_that_clients_use() {
        let expected = RangeRequest { key: "foo".into(), limit: 3, sort_order: 2, ..RangeRequest::default() };
        for text in [
            r#"{"key":"Zm9v","limit":"3","sort_order":"DESCEND"}"#,
            r#"{"key":"Zm9v","limit":3,"sortOrder":2,"unknown":{"a":[1]}}"#,
        ] {
            let bytes = read(message("etcdserverpb.RangeRequest"), text.as_bytes()).unwrap();
            assert_eq!(RangeRequest::decode(bytes).unwrap(), expected, "{text}");
        }
        assert_eq!(read(message("etcdserverpb.RangeRequest"), b" \n").unwrap(), Bytes::new());
    }

    #[test]
    fn a_message_ends_at_the_same_byte_in_whatever_pieces_it_comes() {
        let cases = [
            (r#" {"a":"}\"{\\"} {"#, Some(15)),
            (r#"{"a":[{},{"b":1}]}{}"#, Some(18)),
            ("  x{", Some(3)),
            (r#""x" {"#, Some(3)),
            ("}", Some(1)),
            (r#"{"a":"}"#, None),
            ("  ", None),
        ];
        for (text, expected) in cases {
            let (mut at_once, mut bounds) = (Bounds::default(), Bounds::default());
            assert_eq!(at_once.end(text.as_bytes()), expected, "{text}");
            let found = (0..=text.len()).find_map(|length| bounds.end(&text.as_bytes()[..length]));
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for text in ["{", "[]", r#"{"key":5}"#, r#"{"key":"!"}"#, r#"{"limit":"x"}"#] {
            let status = read(message("etcdserverpb.RangeRequest"), text.as_bytes()).unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument, "{text}");
        }
    }

    #[test]
    fn answers_look_as_etcd_writes_them() {
        let kv = ringmesh_proto::etcd::mvccpb::KeyValue { key: "foo".into(), mod_revision: 7, ..Default::default() };
        let event = Event { r#type: 1, kv: Some(kv), prev_kv: None };
        let text = write(message("mvccpb.Event"), event.encode_to_vec().into()).unwrap();
        assert_eq!(text, r#"{"type":"DELETE","kv":{"key":"Zm9v","mod_revision":"7"}}"#);
    }
}
