//! `ringmesh.v1.Cells`.

use ringmesh_proto::{
    peer::QueryRequest,
    v1::{GetCellRequest, GetCellResponse, ListCellsRequest, ListCellsResponse, cells_server::Cells},
};
use tonic::{Request, Response, Status};

use super::{Api, containers::none_found};

#[tonic::async_trait]
impl Cells for Api {
    async fn list_cells(&self, request: Request<ListCellsRequest>) -> Result<Response<ListCellsResponse>, Status> {
        let ListCellsRequest { host, zone } = request.into_inner();
        let query = QueryRequest { cells: true, ..QueryRequest::default() };
        let (answers, sources) = self.ask_all(query, &host, &zone).await?;
        let cells = answers.into_iter().flat_map(|answer| answer.cells).collect();
        Ok(Response::new(ListCellsResponse { cells, sources }))
    }

    async fn get_cell(&self, request: Request<GetCellRequest>) -> Result<Response<GetCellResponse>, Status> {
        let GetCellRequest { host, number } = request.into_inner();
        if host.is_empty() {
            return Err(Status::invalid_argument("name the host whose cell it is"));
        }
        let query = QueryRequest { cells: true, cell: Some(number), ..QueryRequest::default() };
        let (answers, sources) = self.ask_all(query, &host, "").await?;
        match answers.into_iter().flat_map(|answer| answer.cells).next() {
            None => Err(none_found("cell", &format!("{host}/{number}"), &sources)),
            cell => Ok(Response::new(GetCellResponse { cell, sources })),
        }
    }
}
