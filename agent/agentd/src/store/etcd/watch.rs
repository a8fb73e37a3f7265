//! Watches: what changes, as it changes.

use ringmesh_proto::etcd::etcdserverpb::{WatchRequest, WatchResponse, watch_server};
use tonic::{Request, Response, Status, Streaming};

use super::{Answers, Face, NEEDS_LEADER};
use crate::store::request::{Failure, Handle, Watches};

/// A client's side of a stream of watches and ours.
struct Conversation {
    /// None once it has said all: its watches go on.
    client: Option<Streaming<WatchRequest>>,
    watches: Watches,
    /// If it is to end when nobody leads: the client then asks another member.
    leader: Option<Handle>,
}

#[tonic::async_trait]
impl watch_server::Watch for Face {
    type WatchStream = Answers<WatchResponse>;

    async fn watch(&self, request: Request<Streaming<WatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let watches = self.handle.watches().await?;
        let needs_leader = request.metadata().get(NEEDS_LEADER).is_some_and(|value| value == "true");
        let leader = needs_leader.then(|| self.handle.clone());
        let conversation = Conversation { client: Some(request.into_inner()), watches, leader };
        // Nothing is read of the client while it takes no answers: what waits for it is bounded.
        let answers = futures_util::stream::unfold(Some(conversation), |conversation| async {
            let mut conversation = conversation?;
            match conversation.next().await.transpose()? {
                Ok(answer) => Some((Ok(answer), Some(conversation))),
                Err(status) => Some((Err(status), None)),
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

impl Conversation {
    /// None when the client's connection is gone.
    async fn next(&mut self) -> Result<Option<WatchResponse>, Status> {
        loop {
            // Answers first: nothing more is asked for while some wait.
            tokio::select! {
                biased;
                answer = self.watches.next() => return Ok(Some(answer?)),
                () = unled(self.leader.as_ref()) => return Err(Failure::NoLeader.into()),
                said = message(self.client.as_mut()) => match said {
                    Ok(Some(request)) => self.watches.say(request).await?,
                    Ok(None) => self.client = None,
                    Err(_) => return Ok(None),
                },
            }
        }
    }
}

/// Never, if it has said all.
async fn message(client: Option<&mut Streaming<WatchRequest>>) -> Result<Option<WatchRequest>, Status> {
    match client {
        Some(client) => client.message().await,
        None => std::future::pending().await,
    }
}

/// Never, if that is of no importance.
async fn unled(leader: Option<&Handle>) {
    match leader {
        Some(handle) => handle.unled().await,
        None => std::future::pending().await,
    }
}
