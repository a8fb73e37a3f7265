//! `ringmesh.v1.Cells`.

use ringmesh_proto::{
    peer::QueryRequest,
    v1::{
        Cell, CellMember, Container, GetCellRequest, GetCellResponse, ListCellsRequest, ListCellsResponse,
        cells_server::Cells,
    },
};
use tonic::{Request, Response, Status};

use super::{Api, containers::none_found};

#[tonic::async_trait]
impl Cells for Api {
    async fn list_cells(&self, request: Request<ListCellsRequest>) -> Result<Response<ListCellsResponse>, Status> {
        let request = request.into_inner();
        let query = QueryRequest { cells: true, ..QueryRequest::default() };
        let gathered = self.ask_all(query, &request.host, &request.zone).await?;
        let cells = gathered.details.into_iter().flat_map(|details| details.cells).collect();
        Ok(Response::new(ListCellsResponse { cells, sources: gathered.sources }))
    }

    async fn get_cell(&self, request: Request<GetCellRequest>) -> Result<Response<GetCellResponse>, Status> {
        let GetCellRequest { host, number } = request.into_inner();
        if host.is_empty() {
            return Err(Status::invalid_argument("name the host whose cell it is"));
        }
        let query = QueryRequest { cells: true, cell_members: true, containers: true, ..QueryRequest::default() };
        let gathered = self.ask_all(query, &host, "").await?;
        for details in gathered.details {
            let found = details.cells.into_iter().find(|cell| cell.number == number);
            if let Some(cell) = found {
                let hosted = cell.service.is_empty();
                let members = if hosted { members(number, details.containers) } else { cell.members };
                let cell = Some(Cell { members, ..cell });
                return Ok(Response::new(GetCellResponse { cell, sources: gathered.sources }));
            }
        }
        Err(none_found("cell", &format!("{host}/{number}"), &gathered.sources))
    }
}

fn members(number: u32, containers: Vec<Container>) -> Vec<CellMember> {
    let named = |container: Container| Some(CellMember { container: container.name, ..container.cell? });
    let mut members: Vec<CellMember> =
        containers.into_iter().filter_map(named).filter(|member| member.cell == number).collect();
    members.sort_by_key(|member| member.slot);
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_has_its_own_containers_by_slot() {
        let container = |name: &str, cell, slot| Container {
            name: name.into(),
            cell: Some(CellMember { cell, slot, ..CellMember::default() }),
            ..Container::default()
        };
        let outside = Container { name: "stopped".into(), ..Container::default() };
        let found = members(1, vec![container("b", 1, 7), container("c", 0, 1), outside, container("a", 1, 2)]);
        let names: Vec<&str> = found.iter().map(|member| member.container.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
    }
}
