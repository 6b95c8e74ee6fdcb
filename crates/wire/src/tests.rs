//! What several test modules need.

use longshore_model::config::{BridgeConfig, DaemonConfig};

/// A configuration with every default.
pub(crate) fn config() -> DaemonConfig {
    DaemonConfig {
        listen: Vec::new(),
        data_root: "/var/lib/longshore".into(),
        exec_root: "/run/longshore".into(),
        pidfile: None,
        group: "docker".to_owned(),
        debug: false,
        log_level: "info".to_owned(),
        default_address_pools: Vec::new(),
        bridge: BridgeConfig {
            name: "docker0".to_owned(),
            bip: None,
            mtu: 1500,
            default_ip: None,
            icc: true,
            ip_masquerade: true,
            ip_forward: true,
        },
        labels: Vec::new(),
        dns: Vec::new(),
        dns_search: Vec::new(),
        dns_options: Vec::new(),
        default_shm_size: 64 << 20,
        default_log_driver: String::new(),
        default_log_options: Vec::new(),
        default_init: false,
        default_ulimits: Vec::new(),
        cgroup_parent: String::new(),
        shutdown_timeout: 15,
        insecure_registries: Vec::new(),
        proxies: [None, None, None],
        max_download_attempts: 5,
        max_concurrent_downloads: 3,
        max_concurrent_uploads: 5,
        image_gc: None,
        registry_mirrors: Vec::new(),
        default_cgroupns_mode: None,
        no_new_privileges: false,
    }
}
