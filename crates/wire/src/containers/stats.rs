//! `GET /containers/{name}/stats`: what a container uses, once or every second.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use hyper::StatusCode;
use longshore_engine::stats::{BlockCount, BlockUsage, Moment, Sample};
use longshore_model::{Error, Result, Timestamp};

use crate::{
    dto::stats::{
        BlockEntry, BlockView, CpuUsageView, CpuView, MemoryView, PidsView, StatsView,
        ThrottlingView, TrafficView,
    },
    json,
    request::Request,
    response::{JSON, Response},
};

/// `GET /containers/{name}/stats`
pub async fn stats(request: Request) -> Result<Response> {
    let stream = request.query.bool_or("stream", true);
    let one_shot = request.version.since(41) && request.query.bool_or("one-shot", false);
    let snapshot = request.engine.container(request.name())?;
    if stream && one_shot {
        return Err(Error::invalid("cannot have stream=true and one-shot=true"));
    }
    if stream {
        return follow(request);
    }
    let name = snapshot.id.as_str();
    let once = |line: Vec<u8>| Response::bytes(StatusCode::OK, JSON, line);
    if one_shot || !snapshot.state.running() {
        return Ok(once(encode(&request.engine.sample(name).await?)));
    }
    let mut samples = request.engine.watch_stats(name)?;
    while let Some(sample) = samples.next().await {
        if sample.previous.is_some() || sample.running.is_none() {
            return Ok(once(line_of(&sample).to_vec()));
        }
    }
    // Removed meanwhile.
    Err(Error::not_found(format!(
        "No such container: {}",
        request.name()
    )))
}

fn follow(request: Request) -> Result<Response> {
    let mut samples = request.engine.watch_stats(request.name())?;
    let (response, body) = Response::stream(JSON);
    let mut shutdown = request.shutdown;
    tokio::spawn(async move {
        loop {
            let sample = tokio::select! {
                sample = samples.next() => sample,
                () = body.closed() => return,
                _ = shutdown.wait_for(|down| *down) => return,
            };
            let Some(sample) = sample else { return };
            let line = Bytes::copy_from_slice(line_of(&sample));
            if body.send(line).await.is_err() {
                return;
            }
        }
    });
    Ok(response)
}

/// Encoded once for all who watch.
fn line_of(sample: &Arc<Sample>) -> &[u8] {
    sample.encoded.get_or_init(|| encode(sample))
}

fn encode(sample: &Sample) -> Vec<u8> {
    json::to_line(&view(sample)).to_vec()
}

fn view(sample: &Sample) -> StatsView {
    let mut view = StatsView {
        id: sample.id.clone(),
        name: format!("/{}", sample.name),
        read: Timestamp(0).rfc3339(),
        preread: Timestamp(0).rfc3339(),
        ..StatsView::default()
    };
    if let Some(previous) = &sample.previous {
        view.preread = previous.read.rfc3339();
        view.precpu_stats = cpu(previous);
    }
    let Some(running) = &sample.running else {
        return view;
    };
    view.os_type = "linux";
    view.read = running.now.read.rfc3339();
    view.cpu_stats = cpu(&running.now);
    let memory = &running.memory;
    view.memory_stats = MemoryView {
        usage: memory.usage,
        max_usage: memory.max_usage,
        stats: memory.stats.clone(),
        failcnt: memory.failures,
        limit: memory.limit,
    };
    view.networks = running
        .networks
        .iter()
        .map(|(name, t)| {
            let traffic = TrafficView {
                rx_bytes: t.rx_bytes,
                rx_packets: t.rx_packets,
                rx_errors: t.rx_errors,
                rx_dropped: t.rx_dropped,
                tx_bytes: t.tx_bytes,
                tx_packets: t.tx_packets,
                tx_errors: t.tx_errors,
                tx_dropped: t.tx_dropped,
            };
            (name.clone(), traffic)
        })
        .collect::<BTreeMap<_, _>>();
    view.pids_stats = PidsView {
        current: running.pids,
        limit: running.pids_limit,
    };
    view.blkio_stats = block(&running.block);
    view
}

fn cpu(moment: &Moment) -> CpuView {
    let cpu = &moment.cpu;
    CpuView {
        cpu_usage: CpuUsageView {
            total_usage: cpu.total,
            percpu_usage: cpu.per_cpu.clone(),
            usage_in_kernelmode: cpu.kernel,
            usage_in_usermode: cpu.user,
        },
        system_cpu_usage: moment.system,
        online_cpus: u64::from(moment.cpus),
        throttling_data: ThrottlingView {
            periods: cpu.periods,
            throttled_periods: cpu.throttled_periods,
            throttled_time: cpu.throttled,
        },
    }
}

/// Version 1: a list for each; version 2: null for what is not counted and for no traffic at all.
fn block(usage: &BlockUsage) -> BlockView {
    let list = |counts: &[BlockCount]| {
        let shown = !usage.unified || !counts.is_empty();
        shown.then(|| {
            counts
                .iter()
                .map(|count| BlockEntry {
                    major: count.major,
                    minor: count.minor,
                    op: count.operation.clone(),
                    value: count.value,
                })
                .collect()
        })
    };
    BlockView {
        io_service_bytes_recursive: list(&usage.service_bytes),
        io_serviced_recursive: list(&usage.serviced),
        io_queue_recursive: list(&usage.queued),
        io_service_time_recursive: list(&usage.service_time),
        io_wait_time_recursive: list(&usage.wait_time),
        io_merged_recursive: list(&usage.merged),
        io_time_recursive: list(&usage.time),
        sectors_recursive: list(&usage.sectors),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use super::*;

    /// As dockerd encodes its empty structure.
    #[test]
    fn a_container_that_does_not_run() {
        let sample = Sample {
            id: "ab".to_owned(),
            name: "c1".to_owned(),
            running: None,
            previous: None,
            encoded: OnceLock::new(),
        };
        let cpu = r#"{"cpu_usage":{"total_usage":0,"usage_in_kernelmode":0,"usage_in_usermode":0},"throttling_data":{"periods":0,"throttled_periods":0,"throttled_time":0}}"#;
        let lists = [
            "io_service_bytes_recursive",
            "io_serviced_recursive",
            "io_queue_recursive",
            "io_service_time_recursive",
            "io_wait_time_recursive",
            "io_merged_recursive",
            "io_time_recursive",
            "sectors_recursive",
        ]
        .map(|name| format!("\"{name}\":null"))
        .join(",");
        assert_eq!(
            String::from_utf8(encode(&sample)).expect("text"),
            format!(
                "{{\"id\":\"ab\",\"name\":\"/c1\",\"read\":\"0001-01-01T00:00:00Z\",\"cpu_stats\":{cpu},\"memory_stats\":{{}},\
                 \"pids_stats\":{{}},\"blkio_stats\":{{{lists}}},\"num_procs\":0,\"storage_stats\":{{}},\
                 \"preread\":\"0001-01-01T00:00:00Z\",\"precpu_stats\":{cpu}}}\n"
            )
        );
    }
}
