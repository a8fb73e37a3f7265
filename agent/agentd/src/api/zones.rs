//! `ringmesh.v1.Zones`.

use ringmesh_proto::v1::{
    GetZoneRequest, ListZonesRequest, ListZonesResponse, WatchZonesRequest, WatchZonesResponse, Zone, change::Kind,
    zones_server::Zones,
};
use tonic::{Request, Response, Status};

use super::{
    Answers, Api, not_found,
    watch::{Step, Watched},
};
use crate::clock;

impl Watched for Zone {
    fn key(&self) -> String {
        self.id.clone()
    }

    fn essence(&self) -> Self {
        Self { observed_at: None, age_ms: 0, ..self.clone() }
    }
}

impl Api {
    /// As the snapshot has them, grown older since.
    fn zones(&self) -> Vec<Zone> {
        let view = self.view();
        let since = clock::unix().0.saturating_sub(view.taken.unix.0);
        let aged = |zone: &Zone| {
            let age_ms = zone.age_ms.saturating_add(u32::try_from(since).unwrap_or(u32::MAX));
            Zone { age_ms, ..zone.clone() }
        };
        view.zones.iter().map(aged).collect()
    }
}

#[tonic::async_trait]
impl Zones for Api {
    type WatchZonesStream = Answers<WatchZonesResponse>;

    async fn list_zones(&self, _: Request<ListZonesRequest>) -> Result<Response<ListZonesResponse>, Status> {
        let answered_by = self.view().name.clone();
        Ok(Response::new(ListZonesResponse { zones: self.zones(), answered_by }))
    }

    async fn get_zone(&self, request: Request<GetZoneRequest>) -> Result<Response<Zone>, Status> {
        let name = request.into_inner().name;
        let found = self.zones().into_iter().find(|zone| zone.name == name || zone.id == name);
        found.map(Response::new).ok_or_else(|| not_found("zone", &name))
    }

    async fn watch_zones(&self, _: Request<WatchZonesRequest>) -> Result<Response<Self::WatchZonesStream>, Status> {
        let message = |step| match step {
            Step::Object(kind, zone) => WatchZonesResponse { change: kind as i32, zone: Some(zone) },
            Step::Synced => WatchZonesResponse { change: Kind::Synced as i32, zone: None },
        };
        Ok(Response::new(self.watch_view(|view| view.zones.to_vec(), message)))
    }
}
