//! `ringmesh version`

use std::time::Duration;

use ringmesh_proto::v1::{GetStatusRequest, Status, agent_client::AgentClient};
use serde::Serialize;

use crate::{
    context::{Context, client},
    error::CliError,
    output::{document::Canonical, table::printable},
};

const CLIENT: &str = env!("CARGO_PKG_VERSION");
/// A version is no reason to wait long.
const PATIENCE: Duration = Duration::from_secs(3);

/// As a document. An agent that cannot be asked is null.
#[derive(Serialize)]
struct Versions {
    client: &'static str,
    agent: Option<Canonical>,
}

pub(crate) async fn run(mut context: Context) -> Result<(), CliError> {
    context.limit_timeout(PATIENCE);
    let agent = status(&context).await.ok();
    let versions = Versions { client: CLIENT, agent: agent.as_ref().map(Canonical::of) };
    context.printer.value(&versions, || match &agent {
        Some(agent) => {
            let (version, name) = (printable(&agent.version), printable(&agent.name));
            format!("ringmesh {CLIENT}\nagent    {version} ({name}, pid {})\n", agent.pid)
        }
        None => format!("ringmesh {CLIENT}\n"),
    })
}

async fn status(context: &Context) -> Result<Status, CliError> {
    let mut client = client!(context, AgentClient);
    context.call(client.get_status(GetStatusRequest {})).await
}
