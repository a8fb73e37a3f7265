//! `ringmesh disarm` and `ringmesh arm`

use std::time::Duration;

use clap::{Args, ValueEnum};
use ringmesh_proto::v1::{
    ArmRequest, Arming, DisarmRequest, GetArmingRequest, arming, operations_client::OperationsClient,
};

use super::operation::{Reason, arming_text};
use crate::{
    args::{duration, proto_duration},
    context::{Context, client},
    error::CliError,
    output::note_missing,
};

/// Hold back all automatic action in the whole cluster.
#[derive(Args, Debug)]
#[command(after_help = "\
Every host learns of it, also one that is down now; it survives restarts. What operators order is done all the same.

Examples:
  ringmesh disarm --for 2h --reason \"maintenance of the switches\"
  ringmesh disarm --mode ignore       nothing is proposed either
  ringmesh disarm --show              whether the cluster is armed
  ringmesh arm                        as usual again")]
pub(crate) struct DisarmArgs {
    /// freeze: what would be done is proposed, for `operation approve`. ignore: nothing is.
    #[arg(long, value_enum, default_value_t = Mode::Freeze, hide_possible_values = true)]
    mode: Mode,
    /// Armed again after so long [default: not by itself].
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    lasts: Option<Duration>,
    #[command(flatten)]
    reason: Reason,
    /// Only say how it is.
    #[arg(long, conflicts_with_all = ["mode", "lasts", "reason"])]
    show: bool,
}

/// Let the cluster repair containers by itself again.
#[derive(Args, Debug)]
pub(crate) struct ArmArgs {
    #[command(flatten)]
    reason: Reason,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    /// What would be done is proposed.
    Freeze,
    /// Nothing is.
    Ignore,
}

pub(crate) async fn disarm(context: &Context, args: DisarmArgs) -> Result<(), CliError> {
    let mut client = client!(context, OperationsClient);
    if args.show {
        let arming = context.call(client.get_arming(GetArmingRequest {})).await?;
        return show(context, &arming);
    }
    let mode = match args.mode {
        Mode::Freeze => arming::Mode::Freeze,
        Mode::Ignore => arming::Mode::Ignore,
    };
    let lasts = args.lasts.map(proto_duration).transpose()?;
    let request = DisarmRequest { mode: mode as i32, reason: args.reason.reason, lasts };
    let arming = context.call(client.disarm(request)).await?;
    show(context, &arming)
}

pub(crate) async fn arm(context: &Context, args: ArmArgs) -> Result<(), CliError> {
    let mut client = client!(context, OperationsClient);
    let arming = context.call(client.arm(ArmRequest { reason: args.reason.reason })).await?;
    show(context, &arming)
}

fn show(context: &Context, arming: &Arming) -> Result<(), CliError> {
    context.printer.message(arming, |arming| match arming.mode() {
        arming::Mode::Armed => "the cluster is armed\n".to_owned(),
        arming::Mode::Freeze | arming::Mode::Ignore => format!("the cluster is disarmed: {}\n", arming_text(arming)),
    })?;
    note_missing(&arming.sources, "hosts");
    Ok(())
}
