//! `ringmesh.v1.Rings` and `ringmesh.v1.Links`.

use std::collections::BTreeSet;

use ringmesh_node::View;
use ringmesh_proto::{
    HostId,
    v1::{
        GetLinkRequest, GetPathRequest, GetRingRequest, Link, ListLinksRequest, ListLinksResponse, ListRingsRequest,
        ListRingsResponse, MeshPath, Ring, WatchLinksRequest, WatchLinksResponse, WatchRingsRequest,
        WatchRingsResponse, change::Kind, links_server::Links, rings_server::Rings,
    },
};
use tonic::{Request, Response, Status};

use super::{
    Answers, Api,
    hosts::find_host,
    watch::{Step, Watched},
};

/// Hosts of one question that a path must not touch: more there are not.
const MAX_AVOID: usize = 512;

impl Watched for Ring {
    fn key(&self) -> String {
        self.name.clone()
    }

    fn essence(&self) -> Self {
        self.clone()
    }
}

impl Watched for Link {
    fn key(&self) -> String {
        self.name.clone()
    }

    fn essence(&self) -> Self {
        // Of one wait it may move by a millisecond with each record; that it begins and ends is the news.
        let restored_at = self.restored_at.map(|_| prost_types::Timestamp::default());
        Self { rtt_us: 0, loss_percent: 0, observed_at: None, restored_at, ..self.clone() }
    }
}

#[tonic::async_trait]
impl Rings for Api {
    type WatchRingsStream = Answers<WatchRingsResponse>;

    async fn list_rings(&self, _: Request<ListRingsRequest>) -> Result<Response<ListRingsResponse>, Status> {
        let view = self.view();
        let answered_by = view.name.clone();
        Ok(Response::new(ListRingsResponse { rings: view.rings.to_vec(), links: view.links.list(), answered_by }))
    }

    async fn get_ring(&self, request: Request<GetRingRequest>) -> Result<Response<Ring>, Status> {
        let name = request.into_inner().name;
        let found = self.view().rings.iter().find(|ring| ring.name == name).cloned();
        found.map(Response::new).ok_or_else(|| Status::not_found("there are ring \"a\" and ring \"b\""))
    }

    async fn get_path(&self, request: Request<GetPathRequest>) -> Result<Response<MeshPath>, Status> {
        find_path(&self.view(), &request.into_inner()).map(Response::new)
    }

    async fn watch_rings(&self, _: Request<WatchRingsRequest>) -> Result<Response<Self::WatchRingsStream>, Status> {
        let message = |step| match step {
            Step::Object(kind, ring) => WatchRingsResponse { change: kind as i32, ring: Some(ring) },
            Step::Synced => WatchRingsResponse { change: Kind::Synced as i32, ring: None },
        };
        Ok(Response::new(self.watch_view(|view| view.rings.to_vec(), message)))
    }
}

#[tonic::async_trait]
impl Links for Api {
    type WatchLinksStream = Answers<WatchLinksResponse>;

    async fn list_links(&self, request: Request<ListLinksRequest>) -> Result<Response<ListLinksResponse>, Status> {
        let host = request.into_inner().host;
        let view = self.view();
        let links = view.links.list().into_iter().filter(|link| host.is_empty() || link.from == host).collect();
        Ok(Response::new(ListLinksResponse { links, answered_by: view.name.clone() }))
    }

    async fn get_link(&self, request: Request<GetLinkRequest>) -> Result<Response<Link>, Status> {
        let name = request.into_inner().name;
        let found = self.view().links.list().into_iter().find(|link| link.name == name);
        let none = || Status::not_found("there is no such link; a name is FROM/TO/UPLINK, see `ringmesh link list`");
        found.map(Response::new).ok_or_else(none)
    }

    async fn watch_links(&self, _: Request<WatchLinksRequest>) -> Result<Response<Self::WatchLinksStream>, Status> {
        let message = |step| match step {
            Step::Object(kind, link) => WatchLinksResponse { change: kind as i32, link: Some(link) },
            Step::Synced => WatchLinksResponse { change: Kind::Synced as i32, link: None },
        };
        Ok(Response::new(self.watch_view(|view| view.links.list(), message)))
    }
}

fn find_path(view: &View, request: &GetPathRequest) -> Result<MeshPath, Status> {
    if request.avoid.len() > MAX_AVOID {
        return Err(Status::invalid_argument(format!("at most {MAX_AVOID} hosts can be avoided")));
    }
    let (from, to) = (find_host(view, &request.from)?, find_host(view, &request.to)?);
    let id = |host: &str| {
        let host = find_host(view, host)?;
        host.id.parse::<HostId>().map_err(|_| Status::internal(format!("{} has a malformed id", host.name)))
    };
    let avoid: BTreeSet<HostId> = request.avoid.iter().map(|host| id(host)).collect::<Result<_, _>>()?;
    let ends = [id(&from.id)?, id(&to.id)?];
    if ends.iter().any(|end| avoid.contains(end)) {
        return Err(Status::invalid_argument("a path cannot avoid where it begins or ends"));
    }
    let links = view.path(ends[0], ends[1], &avoid).ok_or_else(|| {
        let besides = if avoid.is_empty() { "" } else { " besides those to avoid" };
        let text = format!("no path leads from {} to {}: too few links are up{besides}", from.name, to.name);
        Status::not_found(text)
    })?;
    Ok(MeshPath {
        from: from.name.clone(),
        to: to.name.clone(),
        rtt_us: links.iter().fold(0, |sum, link| sum.saturating_add(link.rtt_us)),
        links,
        answered_by: view.name.clone(),
    })
}
