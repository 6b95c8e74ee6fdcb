//! Answers of stats. What Go omits when it is zero is omitted here.

use std::collections::BTreeMap;

use serde::Serialize;

fn zero(value: &u64) -> bool {
    *value == 0
}

#[derive(Debug, Default, Serialize)]
pub struct StatsView {
    pub id: String,
    pub name: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub os_type: &'static str,
    pub read: String,
    pub cpu_stats: CpuView,
    pub memory_stats: MemoryView,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub networks: BTreeMap<String, TrafficView>,
    pub pids_stats: PidsView,
    pub blkio_stats: BlockView,
    pub num_procs: u32,
    pub storage_stats: super::container::Empty,
    pub preread: String,
    pub precpu_stats: CpuView,
}

#[derive(Debug, Default, Serialize)]
pub struct CpuView {
    pub cpu_usage: CpuUsageView,
    #[serde(skip_serializing_if = "zero")]
    pub system_cpu_usage: u64,
    #[serde(skip_serializing_if = "zero")]
    pub online_cpus: u64,
    pub throttling_data: ThrottlingView,
}

#[derive(Debug, Default, Serialize)]
pub struct CpuUsageView {
    pub total_usage: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_usage: Vec<u64>,
    pub usage_in_kernelmode: u64,
    pub usage_in_usermode: u64,
}

#[derive(Debug, Default, Serialize)]
pub struct ThrottlingView {
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_time: u64,
}

#[derive(Debug, Default, Serialize)]
pub struct MemoryView {
    #[serde(skip_serializing_if = "zero")]
    pub usage: u64,
    #[serde(skip_serializing_if = "zero")]
    pub max_usage: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub stats: BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "zero")]
    pub failcnt: u64,
    #[serde(skip_serializing_if = "zero")]
    pub limit: u64,
}

#[derive(Debug, Default, Serialize)]
pub struct TrafficView {
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

#[derive(Debug, Default, Serialize)]
pub struct PidsView {
    #[serde(skip_serializing_if = "zero")]
    pub current: u64,
    #[serde(skip_serializing_if = "zero")]
    pub limit: u64,
}

/// None prints as null.
#[derive(Debug, Default, Serialize)]
pub struct BlockView {
    pub io_service_bytes_recursive: Option<Vec<BlockEntry>>,
    pub io_serviced_recursive: Option<Vec<BlockEntry>>,
    pub io_queue_recursive: Option<Vec<BlockEntry>>,
    pub io_service_time_recursive: Option<Vec<BlockEntry>>,
    pub io_wait_time_recursive: Option<Vec<BlockEntry>>,
    pub io_merged_recursive: Option<Vec<BlockEntry>>,
    pub io_time_recursive: Option<Vec<BlockEntry>>,
    pub sectors_recursive: Option<Vec<BlockEntry>>,
}

#[derive(Debug, Default, Serialize)]
pub struct BlockEntry {
    pub major: u64,
    pub minor: u64,
    pub op: String,
    pub value: u64,
}
