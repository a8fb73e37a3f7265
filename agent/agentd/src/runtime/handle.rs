//! What the rest of the agent can order.

use tokio::sync::{mpsc, oneshot};

use super::driver::DriverError;

/// Orders that wait for the supervisor; those who order wait beyond that.
const ORDERS: usize = 64;

/// Orders to the supervisor. When the last one is dropped, it ends; the containers run on.
#[derive(Clone, Debug)]
pub struct RuntimeHandle {
    orders: mpsc::Sender<Order>,
}

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// Of the asker: no such container.
    #[error("no container {0} is configured on this host")]
    Unknown(String),
    /// Of the asker: something else is being done to it.
    #[error("container {0} is busy; try again when it has been started or stopped")]
    Busy(String),
    /// Of ours: the agent ends.
    #[error("the container supervisor has ended")]
    Ended,
    /// The driver could not.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The old container is gone, and the driver could not start the new one. It is tried again.
    #[error("the old container is gone, the new one could not be started: {0}")]
    Removed(#[source] DriverError),
}

impl RuntimeHandle {
    /// A handle and where its orders arrive.
    pub(super) fn new() -> (Self, mpsc::Receiver<Order>) {
        let (orders, queue) = mpsc::channel(ORDERS);
        (Self { orders }, queue)
    }

    /// Kills and deletes the container, makes it anew and starts it.
    pub async fn restart(&self, container: &str) -> Result<(), RuntimeError> {
        self.order(container, Job::Restart).await
    }

    /// Removes the container and starts another with the same configuration but this name, and this address if there is one.
    pub async fn replace(&self, container: &str, to: String, address: Option<String>) -> Result<(), RuntimeError> {
        self.order(container, Job::Replace(Box::new(Replacement { name: to, address }))).await
    }

    /// Freezes the container if it runs and its driver can. From now on it is not started unless somebody orders it.
    pub async fn freeze(&self, container: &str) -> Result<(), RuntimeError> {
        self.order(container, Job::Freeze).await
    }

    /// Ends what [`Self::freeze`] began.
    pub async fn release(&self, container: &str) -> Result<(), RuntimeError> {
        self.order(container, Job::Release).await
    }

    /// Kills every process of the container; it is not started again before [`Self::restart`].
    pub async fn stop(&self, container: &str) -> Result<(), RuntimeError> {
        self.order(container, Job::Stop).await
    }

    /// Freezes the container.
    pub async fn pause(&self, container: &str) -> Result<(), RuntimeError> {
        self.order(container, Job::Pause).await
    }

    /// Lets a paused container go on.
    pub async fn resume(&self, container: &str) -> Result<(), RuntimeError> {
        self.order(container, Job::Resume).await
    }

    async fn order(&self, container: &str, job: Job) -> Result<(), RuntimeError> {
        let (reply, answer) = oneshot::channel();
        let order = Order { container: container.to_owned(), job, reply };
        self.orders.send(order).await.map_err(|_| RuntimeError::Ended)?;
        answer.await.unwrap_or(Err(RuntimeError::Ended))
    }
}

/// One order.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) container: String,
    pub(super) job: Job,
    pub(super) reply: Reply,
}

/// Where the outcome is awaited.
pub(super) type Reply = oneshot::Sender<Result<(), RuntimeError>>;

/// What can be done with one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Job {
    Inspect,
    Start,
    Restart,
    Stop,
    Pause,
    Resume,
    Replace(Box<Replacement>),
    Freeze,
    Release,
}

/// What is different in the container that takes the place of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Replacement {
    pub(super) name: String,
    /// With prefix length; `None`: the same.
    pub(super) address: Option<String>,
}
