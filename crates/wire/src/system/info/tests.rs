use super::*;
use crate::tests::config;

fn shape(minor: u32) -> Value {
    let info = SystemInfo {
        memory_limit: true,
        cpu_cfs: true,
        cpu_shares: true,
        cpuset: true,
        pids_limit: true,
        ipv4_forwarding: true,
        ..SystemInfo::default()
    };
    let view = view(info, &config(), ApiVersion::v1(minor), 3);
    serde_json::from_slice(&crate::json::to_vec(&view)).unwrap()
}

/// The keys of dockerd's answer.
const KEYS: &[&str] = &[
    "Architecture",
    "CDISpecDirs",
    "CPUSet",
    "CPUShares",
    "CgroupDriver",
    "CgroupVersion",
    "Containerd",
    "ContainerdCommit",
    "Containers",
    "ContainersPaused",
    "ContainersRunning",
    "ContainersStopped",
    "CpuCfsPeriod",
    "CpuCfsQuota",
    "Debug",
    "DefaultRuntime",
    "DockerRootDir",
    "Driver",
    "DriverStatus",
    "ExperimentalBuild",
    "FirewallBackend",
    "GenericResources",
    "HttpProxy",
    "HttpsProxy",
    "ID",
    "IPv4Forwarding",
    "Images",
    "IndexServerAddress",
    "InitBinary",
    "InitCommit",
    "Isolation",
    "KernelVersion",
    "Labels",
    "LiveRestoreEnabled",
    "LoggingDriver",
    "MemTotal",
    "MemoryLimit",
    "NCPU",
    "NEventsListener",
    "NFd",
    "NGoroutines",
    "Name",
    "NoProxy",
    "OSType",
    "OSVersion",
    "OomKillDisable",
    "OperatingSystem",
    "PidsLimit",
    "Plugins",
    "RegistryConfig",
    "RuncCommit",
    "Runtimes",
    "SecurityOptions",
    "ServerVersion",
    "Swarm",
    "SwapLimit",
    "SystemTime",
    "Warnings",
];

#[test]
fn keys_as_recorded() {
    let shape = shape(55);
    let mut have: Vec<_> = shape
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    have.sort_unstable();
    let mut want = KEYS.to_vec();
    want.sort_unstable();
    assert_eq!(have, want);
    assert_eq!(shape["Warnings"], json!(["WARNING: No swap limit support"]));
    assert_eq!(shape["Swarm"]["LocalNodeState"], "inactive");
    assert_eq!(shape["LoggingDriver"], "json-file");
}

#[test]
fn older() {
    assert_eq!(shape(49)["BridgeNfIptables"], false);
    assert!(shape(48).get("FirewallBackend").is_none());
    assert!(shape(45).get("Containerd").is_none());
    assert!(shape(43)["Runtimes"]["runc"].get("status").is_none());
}
