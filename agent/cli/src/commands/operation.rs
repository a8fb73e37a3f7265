//! `ringmesh operation`, and what the commands share that order something.

use std::{io::IsTerminal, time::Duration};

use clap::{Args, Subcommand};
use jiff::Timestamp;
use ringmesh_proto::v1::{
    Arming, DecideOperationRequest, GetArmingRequest, GetOperationRequest, ListOperationsRequest, Operation,
    WaitOperationRequest, arming, operation::State, operations_client::OperationsClient,
};

use crate::{
    context::{Context, client},
    error::CliError,
    natural::Natural,
    output::{
        Resource,
        details::Details,
        note, note_missing,
        style::Style,
        table::{Cell, Column, column, printable, wide},
        time,
    },
};

/// So much sooner than we lose patience, the agent tells how far it is.
const MARGIN: Duration = Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub(crate) enum OperationCommand {
    /// List what is and was done to containers and hosts, and what is proposed.
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  ringmesh operation list --open              what is under way or waits for approval
  ringmesh operation list --container web
  ringmesh operation list -o json | jq '.[] | select(.state == \"proposed\") | .id'"
    )]
    List(ListArgs),
    /// Show all that is known of an operation.
    Show(IdArg),
    /// Wait until an operation has ended, as long as --timeout says; its outcome is the exit status.
    Wait(IdArg),
    /// Have a proposed operation done.
    Approve(DecideArgs),
    /// Have a proposed operation dropped. The container is left alone until it is well again.
    Reject(DecideArgs),
}

#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// Only those on this host.
    #[arg(long, value_name = "HOST")]
    on: Option<String>,
    /// Only those on this container.
    #[arg(long, value_name = "CONTAINER")]
    container: Option<String>,
    /// Only those that have not ended.
    #[arg(long)]
    open: bool,
    /// Only those of this zone [default: of all].
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct IdArg {
    /// As `operation list` shows it.
    #[arg(value_name = "ID")]
    id: String,
}

#[derive(Args, Debug)]
pub(crate) struct DecideArgs {
    /// As `operation list` shows it.
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    reason: Reason,
    #[command(flatten)]
    wait: Wait,
}

/// `--reason`, of orders.
#[derive(Args, Debug)]
pub(crate) struct Reason {
    /// Why, for the others and for later.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(crate) reason: String,
}

/// `--wait` and `--no-wait`, of orders.
#[derive(Args, Debug)]
pub(crate) struct Wait {
    /// Wait until it is done [default: on a terminal].
    #[arg(long, conflicts_with = "no_wait")]
    wait: bool,
    /// Do not wait.
    #[arg(long)]
    no_wait: bool,
}

impl Wait {
    fn wanted(&self) -> bool {
        self.wait || (!self.no_wait && std::io::stdout().is_terminal())
    }
}

pub(crate) async fn run(context: &Context, command: OperationCommand) -> Result<(), CliError> {
    let mut client = client!(context, OperationsClient);
    match command {
        OperationCommand::List(args) => {
            let (host, container) = (args.on.unwrap_or_default(), args.container.unwrap_or_default());
            let request =
                ListOperationsRequest { host, container, open: args.open, zone: args.zone.unwrap_or_default() };
            let answer = context.call(client.list_operations(request)).await?;
            context.printer.list_in_order(&answer.operations)?;
            note_missing(&answer.sources, Operation::PLURAL);
            note_arming(&context.call(client.get_arming(GetArmingRequest {})).await?);
            Ok(())
        }
        OperationCommand::Show(IdArg { id }) => {
            let operation = context.call(client.get_operation(GetOperationRequest { id })).await;
            context.printer.details(&operation.map_err(see_list)?, describe)
        }
        OperationCommand::Wait(IdArg { id }) => {
            let operation = wait_for(context, id).await?;
            context.printer.details(&operation, describe)?;
            outcome(&operation)
        }
        OperationCommand::Approve(args) => decide(context, args, true).await,
        OperationCommand::Reject(args) => decide(context, args, false).await,
    }
}

async fn decide(context: &Context, args: DecideArgs, approve: bool) -> Result<(), CliError> {
    let DecideArgs { id, reason: Reason { reason }, wait } = args;
    let mut client = client!(context, OperationsClient);
    let decided = context.call(client.decide_operation(DecideOperationRequest { id, approve, reason })).await;
    let operation = decided.map_err(see_list)?;
    if approve { ordered(context, operation, &wait).await } else { context.printer.details(&operation, describe) }
}

fn see_list(error: CliError) -> CliError {
    error.or_see("ringmesh operation list")
}

/// Shows an operation that was just ordered, when it has ended if somebody waits for it.
pub(crate) async fn ordered(context: &Context, operation: Operation, wait: &Wait) -> Result<(), CliError> {
    if !wait.wanted() {
        return context.printer.details(&operation, describe);
    }
    let operation = wait_for(context, operation.id).await?;
    context.printer.details(&operation, describe)?;
    outcome(&operation)
}

async fn wait_for(context: &Context, id: String) -> Result<Operation, CliError> {
    let patience = context.patience();
    let asked = patience.saturating_sub(MARGIN).max(patience / 2);
    let timeout = prost_types::Duration::try_from(asked).ok();
    let mut client = client!(context, OperationsClient);
    context.call(client.wait_operation(WaitOperationRequest { id, timeout })).await.map_err(see_list)
}

/// What the exit status says of it.
fn outcome(operation: &Operation) -> Result<(), CliError> {
    let (id, progress) = (printable(&operation.id), printable(&operation.progress));
    match operation.state() {
        State::Done => Ok(()),
        State::Failed => Err(CliError::Failed(format!("operation {id} failed: {progress}"))),
        State::Refused => Err(CliError::Refused(format!("operation {id} was refused: {progress}"))),
        State::Unknown | State::Proposed | State::Held | State::Running => Err(CliError::TimedOut(format!(
            "operation {id} has not ended; go on with `ringmesh operation wait {id}`, or wait longer with --timeout"
        ))),
    }
}

/// Says that nothing is repaired by itself.
fn note_arming(arming: &Arming) {
    if arming.mode() != arming::Mode::Armed {
        note(&format!("the cluster is disarmed: {}", arming_text(arming)));
    }
}

/// "freeze, by root on h1 until …: maintenance"
pub(crate) fn arming_text(arming: &Arming) -> String {
    let mode = arming.mode().as_str_name();
    let Some(hold) = &arming.hold else { return mode.to_owned() };
    let until = time::stamp(hold.until.as_ref());
    let until = if until.is_empty() { until } else { format!(" until {until}") };
    let reason = if hold.reason.is_empty() { String::new() } else { format!(": {}", printable(&hold.reason)) };
    format!("{mode}, by {}{until}{reason}", printable(&hold.who))
}

impl Resource for Operation {
    const PLURAL: &'static str = "operations";
    const COLUMNS: &'static [Column] = &[
        column("ID"),
        column("KIND"),
        column("STATE"),
        column("HOST"),
        column("CONTAINER"),
        column("AGE"),
        column("BY"),
        column("WHY"),
        wide("SERVICE"),
        wide("RUNG"),
        wide("ATTEMPT"),
        wide("REPLACEMENT"),
        wide("PROGRESS"),
    ];

    fn key(&self) -> Natural {
        Natural::of(&[&self.id])
    }

    fn cells(&self, now: Timestamp) -> Vec<Cell> {
        let number = |number: u32| if number == 0 { String::new() } else { number.to_string() };
        vec![
            Cell::new(&self.id),
            Cell::new(self.kind().as_str_name()),
            Cell::styled(self.state().as_str_name(), style(self.state())),
            Cell::new(&self.host),
            Cell::new(&self.container),
            Cell::new(time::age(now, self.created_at.as_ref())),
            Cell::new(&self.who),
            Cell::new(why(self)),
            Cell::new(&self.service),
            Cell::new(number(self.rung)),
            Cell::new(number(self.attempt)),
            Cell::new(&self.replacement),
            Cell::new(&self.progress),
        ]
    }
}

fn style(state: State) -> Style {
    match state {
        State::Done => Style::Good,
        State::Proposed | State::Held => Style::Warn,
        State::Failed => Style::Bad,
        State::Unknown | State::Running => Style::Plain,
        State::Refused => Style::Dim,
    }
}

fn why(operation: &Operation) -> String {
    let evidence = operation.evidence.as_ref().map(|evidence| match operation.service.as_str() {
        "" => evidence.answer.clone(),
        service => format!("{service}: {}", evidence.answer),
    });
    evidence.unwrap_or_else(|| operation.reason.clone())
}

fn describe(operation: &Operation, out: &mut Details) {
    let now = Timestamp::now();
    out.add("Id", &operation.id);
    out.add("Kind", operation.kind().as_str_name());
    out.state("State", operation.state().as_str_name());
    out.add("Progress", &operation.progress);
    out.add("Host", &operation.host);
    out.add("Container", &operation.container);
    out.add("Service", &operation.service);
    out.add("Replacement", &operation.replacement);
    if operation.rung > 0 {
        out.add("Rung", format!("{}, attempt {}", operation.rung, operation.attempt));
    }
    if let Some(evidence) = &operation.evidence {
        out.state("Verdict", evidence.verdict().as_str_name());
        out.add("Answer", &evidence.answer);
        out.add("Critical since", time::stamp_and_age(now, evidence.since.as_ref()));
    }
    out.add("Reason", &operation.reason);
    out.add("By", if operation.automatic { format!("{}, by itself", operation.who) } else { operation.who.clone() });
    out.add("Created", time::stamp_and_age(now, operation.created_at.as_ref()));
    out.add("Started", time::stamp_and_age(now, operation.started_at.as_ref()));
    out.add("Ended", time::stamp_and_age(now, operation.ended_at.as_ref()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_status_is_the_outcome() {
        let cases =
            [(State::Done, None), (State::Failed, Some(1)), (State::Refused, Some(5)), (State::Running, Some(6))];
        for (state, expected) in cases {
            let operation = Operation { state: state as i32, ..Operation::default() };
            let code = outcome(&operation).err().map(|error| error.exit_code());
            assert_eq!(code, expected.map(std::process::ExitCode::from), "{state:?}");
        }
    }
}
