//! `ringmesh leave`

use clap::Args;
use ringmesh_proto::v1::{GetStatusRequest, LeaveRequest, agent_client::AgentClient};

use crate::{
    context::{Context, client},
    error::CliError,
    output::note,
};

/// Take the agent's host out of the cluster for good.
#[derive(Args, Debug)]
#[command(after_help = "\
The others say that it has left, not that it is down, and its agent ends. Its containers run on. It comes back when its \
agent is started again.

Examples:
  ringmesh leave               the host of the local agent
  ringmesh --host h5 leave     a host of the newest lab")]
pub(crate) struct LeaveArgs {}

pub(crate) async fn run(context: &Context, LeaveArgs {}: &LeaveArgs) -> Result<(), CliError> {
    let mut client = client!(context, AgentClient);
    let status = context.call(client.get_status(GetStatusRequest {})).await?;
    context.call(client.leave(LeaveRequest {})).await?;
    note(&format!("{} leaves the cluster and its agent ends", status.name));
    Ok(())
}
