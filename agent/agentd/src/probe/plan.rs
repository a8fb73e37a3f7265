//! A plan: checks one after the other, until one fails. It owns their order and the time of all together.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ringmesh_node::health::spec::Step;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout_at,
};

use super::{
    Check, Outcome, ProbeRequest, Tools,
    exec::Order,
    socket::{self, Opened},
};

/// Takes the steps, all within `timeout`; the answer names the one that failed.
pub(super) async fn run(tools: &Tools, request: &ProbeRequest, steps: &[Step], timeout: Duration) -> Outcome {
    let deadline = Instant::now() + timeout;
    let mut last = Outcome::fail("the plan has no step");
    for (taken, step) in steps.iter().enumerate() {
        let started = Instant::now();
        let outcome = timeout_at(deadline.into(), take(tools, request, step, deadline, timeout)).await;
        let outcome = outcome.unwrap_or_else(|_| Outcome::no_answer(timeout));
        // A step that was taken is a sign of life.
        last = outcome.not_after(started, step.max_latency).having(taken > 0);
        if !last.sign.is_right() {
            let answer = format!("step {}: {}", step.name, last.answer);
            return last.in_words(&answer);
        }
    }
    let answer = format!("{} steps, the last: {}", steps.len(), last.answer);
    last.in_words(&answer)
}

async fn take(tools: &Tools, request: &ProbeRequest, step: &Step, deadline: Instant, timeout: Duration) -> Outcome {
    let left = deadline.saturating_duration_since(Instant::now());
    if matches!(*step.check, Check::Exec { .. }) {
        return order(&tools.execs, request, step, left).await;
    }
    if matches!(*step.check, Check::Inside(_)) {
        return order(&tools.asks, request, step, left).await;
    }
    let netns = request.netns.as_deref();
    let opened = tools.within(netns, || Opened::by(&step.check));
    tools.go_home();
    match opened {
        Ok(opened) => socket::answered(tools, netns, opened, &step.check, deadline, timeout).await,
        Err(outcome) => outcome,
    }
}

/// By way of the queue of all such probes: their bound holds for steps, too.
async fn order(queue: &mpsc::Sender<Order>, request: &ProbeRequest, step: &Step, left: Duration) -> Outcome {
    let request = ProbeRequest { check: Arc::clone(&step.check), timeout: left, max_latency: None, ..request.clone() };
    let (sender, answer) = oneshot::channel();
    let order = Order { request, answer: Some(sender), detached: false };
    if queue.send(order).await.is_err() {
        return Outcome::fail("this agent ends");
    }
    answer.await.unwrap_or_else(|_| Outcome::fail("this agent ends"))
}
