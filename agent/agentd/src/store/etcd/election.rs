//! Elections: who stands first in line leads, and what it says stands under its key.

use bytes::Bytes;
use futures_util::StreamExt;
use ringmesh_proto::etcd::{
    etcdserverpb::ResponseHeader,
    mvccpb::{Event, KeyValue, event::EventType},
    v3electionpb::{
        CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest, ProclaimResponse,
        ResignRequest, ResignResponse, election_server,
    },
};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

use super::{
    Answers, Face,
    queue::{end_of, prefix_of},
};

/// Leaders that are told ahead of a client that reads slowly.
const LEADERS_AHEAD: usize = 4;

type Leaders = mpsc::Sender<Result<LeaderResponse, Status>>;

#[tonic::async_trait]
impl election_server::Election for Face {
    async fn campaign(&self, request: Request<CampaignRequest>) -> Result<Response<CampaignResponse>, Status> {
        let CampaignRequest { name, lease, value } = request.into_inner();
        let mut place = self.line_up(&name, lease, value.clone()).await?;
        if place.before.as_ref().is_some_and(|before| before.value != value) {
            place.header = self.put_at(&place.key, place.revision, place.lease, value).await?;
        }
        let place = self.serve_in_turn(place, "election: session is expired").await?;
        let leader = LeaderKey { name, key: place.key, rev: place.revision, lease: place.lease };
        Ok(Response::new(CampaignResponse { header: place.header, leader: Some(leader) }))
    }

    async fn proclaim(&self, request: Request<ProclaimRequest>) -> Result<Response<ProclaimResponse>, Status> {
        let ProclaimRequest { leader, value } = request.into_inner();
        let leader = leader.ok_or_else(no_leader_given)?;
        let header = self.put_at(&leader.key, leader.rev, leader.lease, value).await?;
        if header.is_none() {
            return Err(Status::unknown("election: not leader"));
        }
        Ok(Response::new(ProclaimResponse { header }))
    }

    async fn leader(&self, request: Request<LeaderRequest>) -> Result<Response<LeaderResponse>, Status> {
        let (kv, header) = self.served(&request.into_inner().name).await?;
        if kv.is_none() {
            return Err(Status::unknown("election: no leader"));
        }
        Ok(Response::new(LeaderResponse { header, kv }))
    }

    type ObserveStream = Answers<LeaderResponse>;

    async fn observe(&self, request: Request<LeaderRequest>) -> Result<Response<Self::ObserveStream>, Status> {
        let (leaders, told) = mpsc::channel(LEADERS_AHEAD);
        let (face, name) = (self.clone(), request.into_inner().name);
        tokio::spawn(async move {
            let end = tokio::select! {
                end = face.tell_leaders(&name, &leaders) => end,
                () = leaders.closed() => Ok(()),
            };
            if let Err(status) = end {
                let _ = leaders.send(Err(status)).await;
            }
        });
        Ok(Response::new(tokio_stream::wrappers::ReceiverStream::new(told).boxed()))
    }

    async fn resign(&self, request: Request<ResignRequest>) -> Result<Response<ResignResponse>, Status> {
        let leader = request.into_inner().leader.ok_or_else(no_leader_given)?;
        let header = self.step_out(&leader.key, leader.rev).await?;
        Ok(Response::new(ResignResponse { header }))
    }
}

impl Face {
    /// Until the client has gone.
    async fn tell_leaders(&self, name: &[u8], leaders: &Leaders) -> Result<(), Status> {
        loop {
            let (kv, header) = self.served(name).await?;
            let (kv, header) = match kv {
                Some(kv) => (kv, header),
                None => match self.first_put(name, next_revision(header.as_ref())).await? {
                    Some(first) => first,
                    None => continue,
                },
            };
            let (key, from) = (kv.key.clone(), kv.mod_revision + 1);
            if leaders.send(Ok(LeaderResponse { header, kv: Some(kv) })).await.is_err() {
                return Ok(());
            }
            self.tell_words(key, from, leaders).await?;
        }
    }

    /// The first key that comes into an empty line; None: look again.
    async fn first_put(&self, name: &[u8], from: i64) -> Result<Option<(KeyValue, Option<ResponseHeader>)>, Status> {
        let prefix = prefix_of(name);
        let end = end_of(&prefix);
        let mut watches = self.watch_of(prefix, end, from, Vec::new()).await?;
        loop {
            let answer = watches.next().await?;
            if answer.canceled {
                return Ok(None);
            }
            let put = answer.events.into_iter().find(|event| event.r#type() == EventType::Put);
            if let Some(kv) = put.and_then(|event| event.kv) {
                return Ok(Some((kv, answer.header)));
            }
        }
    }

    /// What the leader says, until its key is gone.
    async fn tell_words(&self, key: Bytes, from: i64, leaders: &Leaders) -> Result<(), Status> {
        let mut watches = self.watch_of(key, Bytes::new(), from, Vec::new()).await?;
        loop {
            let answer = watches.next().await?;
            if answer.canceled {
                return Ok(());
            }
            for event in answer.events {
                let Some(kv) = said(event) else { return Ok(()) };
                let told = LeaderResponse { header: answer.header, kv: Some(kv) };
                if leaders.send(Ok(told)).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

/// None of a delete.
fn said(event: Event) -> Option<KeyValue> {
    if event.r#type() == EventType::Put { event.kv } else { None }
}

fn next_revision(header: Option<&ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision + 1)
}

fn no_leader_given() -> Status {
    Status::invalid_argument("\"leader\" field must be provided")
}
