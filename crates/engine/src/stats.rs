//! What containers use. A container that somebody watches has one sampler, however many watch; without watchers nothing runs.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use longshore_model::{ContainerId, Error, Result, Timestamp};
pub use longshore_shim::host::usage::{BlockCount, BlockUsage, CpuUsage, MemoryUsage, Usage};
use longshore_shim::host::{Cgroup, usage};
use tokio::sync::watch;

use crate::{
    Engine, Inner,
    api::{NetworkMode, Snapshot},
    container::registry::Handle,
};

/// Time between two samples.
const INTERVAL: Duration = Duration::from_secs(1);

/// One sample of a container.
#[derive(Debug)]
pub struct Sample {
    pub id: String,
    /// Without the slash.
    pub name: String,
    /// None: it does not run, nothing else is known.
    pub running: Option<Running>,
    /// The sample before, for rates.
    pub previous: Option<Moment>,
    /// A place for the shape in which this is sent, so that it is made once for all who watch.
    pub encoded: OnceLock<Vec<u8>>,
}

/// The part of a sample that rates are made of.
#[derive(Clone, Debug)]
pub struct Moment {
    pub read: Timestamp,
    pub cpu: CpuUsage,
    /// Nanoseconds that all processors of the host have run or idled.
    pub system: u64,
    pub cpus: u32,
}

#[derive(Debug)]
pub struct Running {
    pub now: Moment,
    pub memory: MemoryUsage,
    pub pids: u64,
    /// 0: none.
    pub pids_limit: u64,
    pub block: BlockUsage,
    /// By interface; empty for a container without interfaces of its own.
    pub networks: BTreeMap<String, Traffic>,
}

/// What went through an interface, seen from inside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

/// Containers that are watched.
#[derive(Default)]
pub(crate) struct Samplers {
    all: Mutex<HashMap<ContainerId, watch::Receiver<Option<Arc<Sample>>>>>,
}

/// A stream of samples, one a second; ends with the container's removal.
pub struct Samples {
    receiver: watch::Receiver<Option<Arc<Sample>>>,
}

impl Samples {
    /// The next sample; None when the container is gone. A slow reader misses some.
    pub async fn next(&mut self) -> Option<Arc<Sample>> {
        loop {
            self.receiver.changed().await.ok()?;
            let sample = self.receiver.borrow_and_update().clone();
            if sample.is_some() {
                return sample;
            }
        }
    }
}

impl Engine {
    /// Watches a container, whether it runs or not.
    ///
    /// # Errors
    /// 404.
    pub fn watch_stats(&self, name: &str) -> Result<Samples> {
        let handle = self.inner.containers.find(name)?;
        let mut all = self
            .inner
            .samplers
            .all
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // A sampler that has just ended has dropped its sender.
        if let Some(receiver) = all.get(&handle.id).filter(|r| r.has_changed().is_ok()) {
            let mut receiver = receiver.clone();
            receiver.mark_changed();
            return Ok(Samples { receiver });
        }
        let (sender, receiver) = watch::channel(None);
        all.insert(handle.id.clone(), receiver.clone());
        drop(all);
        let engine = self.inner.clone();
        self.inner
            .runtime
            .spawn(async move { work(&engine, &handle, sender).await });
        Ok(Samples { receiver })
    }

    /// One sample, without one before it.
    ///
    /// # Errors
    /// 404; a counter that cannot be read.
    pub async fn sample(&self, name: &str) -> Result<Sample> {
        let snapshot = self.container(name)?;
        self.inner.sample(&snapshot, None).await
    }
}

/// Samples a container while somebody watches and it exists.
async fn work(engine: &Arc<Inner>, handle: &Handle, sender: watch::Sender<Option<Arc<Sample>>>) {
    let mut view = handle.view.clone();
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut previous = None;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = view.wait_for(|snapshot| snapshot.removed) => break,
        }
        {
            let mut all = engine
                .samplers
                .all
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            // The registry's own receiver does not watch.
            if sender.receiver_count() <= 1 {
                all.remove(&handle.id);
                return;
            }
        }
        let snapshot = handle.snapshot();
        match engine.sample(&snapshot, previous.take()).await {
            Ok(sample) => {
                previous = sample.running.as_ref().map(|r| r.now.clone());
                sender.send_replace(Some(Arc::new(sample)));
            }
            Err(error) => tracing::warn!(container = %handle.id, "stats: {error}"),
        }
    }
    let mut all = engine
        .samplers
        .all
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    all.remove(&handle.id);
}

impl Inner {
    async fn sample(&self, snapshot: &Snapshot, previous: Option<Moment>) -> Result<Sample> {
        let mut sample = Sample {
            id: snapshot.id.to_string(),
            name: snapshot.name.clone(),
            running: None,
            previous: None,
            encoded: OnceLock::new(),
        };
        if !snapshot.state.running() {
            return Ok(sample);
        }
        let path = self.cgroup_path(snapshot);
        let pid = snapshot.state.pid();
        let own = !matches!(snapshot.spec.network.mode, NetworkMode::Host);
        let networked = own && !snapshot.spec.network.disabled;
        let running = crate::blocking(move || match Cgroup::open(&path).usage() {
            Ok(usage) => Ok(Some(measure(usage, networked.then_some(pid)))),
            // It has ended meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read control groups", error)),
        });
        sample.running = running.await?;
        if sample.running.is_some() {
            sample.previous = previous;
        }
        Ok(sample)
    }
}

/// The moment is taken right after the counters, so that rates come out right.
fn measure(usage: usage::Usage, pid: Option<i32>) -> Running {
    let (system, cpus) = processors(&std::fs::read_to_string("/proc/stat").unwrap_or_default());
    let read = Timestamp::now();
    let networks = pid.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/net/dev")).ok());
    let mut memory = usage.memory;
    memory.limit = memory.limit.min(host_memory());
    Running {
        now: Moment {
            read,
            cpu: usage.cpu,
            system,
            cpus,
        },
        memory,
        pids: usage.pids,
        pids_limit: usage.pids_limit,
        block: usage.block,
        networks: networks.map(|text| traffic(&text)).unwrap_or_default(),
    }
}

fn host_memory() -> u64 {
    static TOTAL: OnceLock<u64> = OnceLock::new();
    *TOTAL.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib = text
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))
            .and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.map_or(u64::MAX, |kib| kib * 1024)
    })
}

/// Of /proc/stat: the time of all processors in nanoseconds (seven columns, without what was stolen, as dockerd adds them
/// up), and how many are online.
fn processors(stat: &str) -> (u64, u32) {
    let mut total = 0;
    let mut count = 0;
    for line in stat.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("cpu") => {
                let ticks = words.take(7).filter_map(|w| w.parse::<u64>().ok());
                total = ticks.sum::<u64>() * 10_000_000;
            }
            Some(word) if word.starts_with("cpu") => count += 1,
            _ => break,
        }
    }
    (total, count)
}

/// Of /proc/pid/net/dev: interfaces but the loopback and those that the kernel makes by itself in every namespace.
fn traffic(text: &str) -> BTreeMap<String, Traffic> {
    const KERNEL: &[&str] = &[
        "lo", "tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0",
        "ip6gre0",
    ];
    let mut found = BTreeMap::new();
    for line in text.lines().skip(2) {
        let Some((name, counters)) = line.split_once(':') else {
            continue;
        };
        let name = name.trim();
        let counters: Vec<u64> = counters
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        let [
            rx_bytes,
            rx_packets,
            rx_errors,
            rx_dropped,
            _,
            _,
            _,
            _,
            tx_bytes,
            tx_packets,
            tx_errors,
            tx_dropped,
            ..,
        ] = counters[..]
        else {
            continue;
        };
        if KERNEL.contains(&name) {
            continue;
        }
        let traffic = Traffic {
            rx_bytes,
            rx_packets,
            rx_errors,
            rx_dropped,
            tx_bytes,
            tx_packets,
            tx_errors,
            tx_dropped,
        };
        found.insert(name.to_owned(), traffic);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_of_the_host() {
        let stat = "cpu  1 2 3 4 5 6 7 99 0 0\ncpu0 1 2 3\ncpu1 1 2 3\nintr 5\n";
        assert_eq!(processors(stat), (280_000_000, 2));
    }

    #[test]
    fn interfaces() {
        let text = "Inter-|   Receive\n face |bytes\n    lo: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n  eth0:516 6 1 2 0 0 0 0 126 3 4 5 0 0 0 0\n";
        let found = traffic(text);
        assert_eq!(found.len(), 1);
        let eth0 = found["eth0"];
        assert_eq!((eth0.rx_bytes, eth0.rx_dropped), (516, 2));
        assert_eq!((eth0.tx_packets, eth0.tx_dropped), (3, 5));
    }
}
