//! gRPC calls within this process: messages in frames go in, and come out again.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt, TryStreamExt};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use prost_reflect::MethodDescriptor;
use tonic::{
    Status,
    body::Body,
    codegen::http::{HeaderMap, HeaderValue, Method, Request, Response, header},
};

use super::super::etcd::Services;

/// A frame's flag of compression and its length.
const PREFIX_BYTES: usize = 5;

/// One message for one message.
pub(super) async fn once(services: &Services, method: &MethodDescriptor, message: Bytes) -> Result<Bytes, Status> {
    let response = services.call(request(method, Body::new(Full::new(frame(&message))))).await;
    let mut answers = Answers::of(response)?;
    let answer = answers.next().await?.ok_or_else(|| Status::internal("there is no answer"))?;
    // What comes after it may still say that the call failed.
    while answers.next().await?.is_some() {}
    Ok(answer)
}

/// Messages for messages; the last of them may be a failure.
pub(super) async fn stream(
    services: &Services,
    method: &MethodDescriptor,
    messages: impl Stream<Item = Result<Bytes, Status>> + Send + 'static,
) -> Result<impl Stream<Item = Result<Bytes, Status>> + Send + 'static, Status> {
    let frames = messages.map_ok(|message| Frame::data(frame(&message)));
    let response = services.call(request(method, Body::new(StreamBody::new(frames)))).await;
    let answers = Answers::of(response)?;
    let answers = futures_util::stream::unfold(Some(answers), |answers| async {
        let mut answers = answers?;
        match answers.next().await.transpose()? {
            Ok(message) => Some((Ok(message), Some(answers))),
            Err(status) => Some((Err(status), None)),
        }
    });
    Ok(answers.boxed())
}

fn request(method: &MethodDescriptor, body: Body) -> Request<Body> {
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = path.parse().expect("names of services and methods make a path");
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
    request
}

fn frame(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).expect("requests are bounded far below 4 GiB");
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    frame.put_u8(0);
    frame.put_u32(length);
    frame.put_slice(message);
    frame.freeze()
}

struct Answers {
    body: Body,
    waiting: BytesMut,
}

impl Answers {
    fn of(response: Response<Body>) -> Result<Self, Status> {
        let (head, body) = response.into_parts();
        failure(&head.headers)?;
        Ok(Self { body, waiting: BytesMut::new() })
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = self.take() {
                return Ok(Some(message));
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            match frame?.into_data() {
                Ok(more) => self.waiting.extend_from_slice(&more),
                Err(frame) => {
                    failure(&frame.into_trailers().unwrap_or_default())?;
                    return Ok(None);
                }
            }
        }
    }

    fn take(&mut self) -> Option<Bytes> {
        let length = self.waiting.get(1..PREFIX_BYTES)?.try_into().ok().map(u32::from_be_bytes)?;
        let length = usize::try_from(length).ok()?;
        if self.waiting.len() < PREFIX_BYTES + length {
            return None;
        }
        self.waiting.advance(PREFIX_BYTES);
        Some(self.waiting.split_to(length).freeze())
    }
}

fn failure(headers: &HeaderMap) -> Result<(), Status> {
    match Status::from_header_map(headers) {
        Some(status) if status.code() != tonic::Code::Ok => Err(status),
        Some(_) | None => Ok(()),
    }
}
