//! What hosted cells cost: `cargo run --profile sim -p ringmesh-node --example bench-cells [CONTAINERS [SECONDS]]`.
//!
//! All containers of a host in cells, in virtual time, each giving a sign of life every ten seconds. Printed: the share of
//! a core that SWIM takes, and memory by what the kernel says of this process.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "it measures, and no machine depends on it")]

use std::{error::Error, time::Duration, time::Instant as Wall};

use ringmesh_node::{
    cells::{Cells, MemberState, News},
    health::spec::{ContainerState, ContainerStatus},
};
use ringmesh_proto::Instant;

const TICK: Duration = Duration::from_millis(100);
const SIGNS: u64 = 100;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let count = arguments.next().transpose()?.unwrap_or(32_000);
    let seconds = arguments.next().transpose()?.unwrap_or(60);
    let status = |number: u64| ContainerStatus {
        name: format!("container-{number}"),
        state: ContainerState::Running,
        ..ContainerStatus::default()
    };
    let statuses: Vec<ContainerStatus> = (0..count).map(status).collect();

    let before = resident()?;
    let start = Wall::now();
    let mut cells = Cells::new(1);
    let mut now = Instant::ZERO;
    for status in &statuses {
        cells.handle_status(now, status);
    }
    let mut longest = Duration::ZERO;
    run(&mut cells, &mut now, 2, &[], &mut longest);
    println!("{count} containers joined in {:.0} ms, the longest call {:.2} ms", ms(start.elapsed()), ms(longest));
    run(&mut cells, &mut now, 20, &statuses, &mut longest);
    println!("{:.2} KiB a container", (resident()? - before) as f64 / 1024.0 / count as f64);

    longest = Duration::ZERO;
    let busy = run(&mut cells, &mut now, seconds, &statuses, &mut longest);
    println!("{:.4} of a core when all are well, the longest call {:.2} ms", share(busy, seconds), ms(longest));

    // A hundredth of them hang: neither their signs come nor do probes get an answer.
    let well = statuses.iter().enumerate().filter(|(number, _)| number % 100 != 0);
    let well: Vec<ContainerStatus> = well.map(|(_, status)| status.clone()).collect();
    for status in statuses.iter().step_by(100) {
        for _ in 0..3 {
            cells.handle_reply(now, &status.name, true, Duration::from_secs(10), Duration::from_secs(1));
        }
    }
    let mut silent = 0;
    let busy = run_and(&mut cells, &mut now, 120, &well, &mut longest, |change| {
        silent += u64::from(change.news == Some(News::Silent));
        assert!(change.news.is_none() || change.state == MemberState::Down);
    });
    println!("{:.4} of a core while a hundredth falls silent; told: {silent} of {}", share(busy, 120), count / 100);
    println!("{:.2} KiB a container then", (resident()? - before) as f64 / 1024.0 / count as f64);
    Ok(())
}

fn run(
    cells: &mut Cells,
    now: &mut Instant,
    seconds: u64,
    signs: &[ContainerStatus],
    longest: &mut Duration,
) -> Duration {
    run_and(cells, now, seconds, signs, longest, |_| {})
}

/// Runs for so long and says how long the cells took.
fn run_and(
    cells: &mut Cells,
    now: &mut Instant,
    seconds: u64,
    signs: &[ContainerStatus],
    longest: &mut Duration,
    mut changed: impl FnMut(ringmesh_node::cells::Change),
) -> Duration {
    let mut busy = Duration::ZERO;
    for tick in 0..seconds * 10 {
        *now += TICK;
        let start = Wall::now();
        for status in signs.iter().skip((tick % SIGNS) as usize).step_by(SIGNS as usize) {
            cells.handle_reply(*now, &status.name, false, Duration::from_secs(10), Duration::from_secs(1));
        }
        busy += start.elapsed();
        while cells.poll_timeout().is_some_and(|due| due <= *now) {
            let start = Wall::now();
            cells.handle_timeout(*now);
            let took = start.elapsed();
            busy += took;
            *longest = took.max(*longest);
        }
        std::iter::from_fn(|| cells.poll_change()).for_each(&mut changed);
    }
    busy
}

fn share(busy: Duration, seconds: u64) -> f64 {
    busy.as_secs_f64() / seconds as f64
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Bytes of memory of this process.
fn resident() -> Result<u64, Box<dyn Error>> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    Ok(statm.split_whitespace().nth(1).ok_or("statm has no second field")?.parse::<u64>()? * 4096)
}
