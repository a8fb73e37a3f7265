//! What every command needs: how to print, and how to ask an agent.

use std::{future::Future, time::Duration};

use tokio::sync::OnceCell;
use tonic::{Response, Status, transport::Channel};

use crate::{
    args::Global,
    connect::{self, Target},
    error::CliError,
    output::Printer,
};

/// The largest answer that is taken: tens of thousands of containers fit many times.
pub(crate) const MAX_ANSWER_BYTES: usize = 256 << 20;

/// One run of the program.
pub(crate) struct Context {
    /// Writes to standard output in the format that was asked for.
    pub(crate) printer: Printer,
    global: Global,
    target: OnceCell<Target>,
}

/// A client of service `$client` over the context's connection.
macro_rules! client {
    ($context:expr, $client:ident) => {
        $client::new($context.channel().await?).max_decoding_message_size($crate::context::MAX_ANSWER_BYTES)
    };
}
pub(crate) use client;

impl Context {
    pub(crate) fn new(global: Global) -> Self {
        Self { printer: Printer::new(global.output, global.no_color), global, target: OnceCell::new() }
    }

    /// Connects to the agent that `--host` names, or to the nearest.
    pub(crate) async fn channel(&self) -> Result<Channel, CliError> {
        let target = Target::find(&self.global)?;
        let target = self.target.get_or_init(|| async { target }).await;
        connect::channel(target, self.global.timeout).await
    }

    /// Waits for an answer, at most as long as `--timeout` says. Of a stream that is its beginning.
    pub(crate) async fn call<T>(
        &self,
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, CliError> {
        match tokio::time::timeout(self.global.timeout, answer).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.status(&status)),
            Err(_) => Err(CliError::TimedOut(format!(
                "{} did not answer within {}: try again, or wait longer with --timeout",
                self.address(),
                crate::output::time::duration(self.global.timeout),
            ))),
        }
    }

    /// How long the user waits for an answer.
    pub(crate) fn patience(&self) -> Duration {
        self.global.timeout
    }

    /// Asks for less patience than the user has.
    pub(crate) fn limit_timeout(&mut self, most: Duration) {
        self.global.timeout = self.global.timeout.min(most);
    }

    /// What the agent's refusal means.
    pub(crate) fn status(&self, status: &Status) -> CliError {
        CliError::of_status(status, &self.address())
    }

    /// Why a watch is over: it never ends by itself.
    pub(crate) fn stream_ended(&self) -> CliError {
        CliError::Unreachable(format!("{} ended the watch: does its agent still run?", self.address()))
    }

    fn address(&self) -> String {
        self.target.get().map_or_else(|| "the agent".to_owned(), ToString::to_string)
    }
}
