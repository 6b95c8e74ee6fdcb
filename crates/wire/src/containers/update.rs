//! `POST /containers/{name}/update`: other limits and another restart policy for a container that exists.

use longshore_engine::api::{RestartPolicy, Updated};
use longshore_model::{Error, Result};

use super::create::{self, HostFacts, resources, validate};
use crate::{
    dto::{
        container::{Echo, UpdateAnswer},
        hostconfig::HostConfig,
    },
    json,
    request::Request,
    response::Response,
    version::ApiVersion,
};

/// `POST /containers/{name}/update`
pub async fn update(mut request: Request) -> Result<Response> {
    let mut wanted: HostConfig = json::read(&mut request, "UpdateConfig").await?;
    adjust(&mut wanted, request.version);
    validate::restart_policy(&wanted.restart_policy)?;
    let engine = request.engine.clone();
    let facts = create::facts(&engine).await;
    let warnings = resources::verify(&mut wanted, facts, resources::Purpose::Update)?;
    let change = move |echo: &str| changed(echo, &wanted, facts);
    engine
        .update_container(request.name(), Box::new(change))
        .await?;
    Ok(Response::ok(&UpdateAnswer {
        warnings: (!warnings.is_empty()).then_some(warnings),
    }))
}

/// What the version does not know is left out.
fn adjust(wanted: &mut HostConfig, version: ApiVersion) {
    if version.before(40) {
        wanted.pids_limit = None;
    }
    if version.since(42) {
        wanted.kernel_memory = 0;
    }
    // 0 and all below are "unlimited".
    wanted.pids_limit = wanted.pids_limit.map(|limit| limit.max(0));
    if version.before(55) {
        wanted.blkio_weight_device = None;
        wanted.blkio_device_read_bps = None;
        wanted.blkio_device_write_bps = None;
        wanted.blkio_device_read_iops = None;
        wanted.blkio_device_write_iops = None;
    }
}

/// The container's request with the new values, and what they mean.
fn changed(echo: &str, wanted: &HostConfig, facts: &HostFacts) -> Result<Updated> {
    let mut echo: Echo = serde_json::from_str(echo)
        .map_err(|e| Error::system(format!("the stored request cannot be read: {e}")))?;
    let host = &mut echo.host_config;
    merge(host, wanted)?;
    let policy = &host.restart_policy;
    Ok(Updated {
        resources: resources::convert(host, facts)?,
        restart: RestartPolicy {
            name: policy.name.clone(),
            maximum_retry_count: policy.maximum_retry_count,
        },
        echo: String::from_utf8(json::to_vec(&echo)).unwrap_or_default(),
    })
}

/// Zero, empty and null mean "as it is". Which changes exclude each other: dockerd's rules, in its order.
fn merge(host: &mut HostConfig, wanted: &HostConfig) -> Result<()> {
    let conflict = |what: &str| Err(Error::conflict(what));
    if wanted.nano_cpus > 0 && host.cpu_period > 0 {
        return conflict(
            "Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set",
        );
    }
    if wanted.nano_cpus > 0 && host.cpu_quota > 0 {
        return conflict(
            "Conflicting options: Nano CPUs cannot be updated as CPU Quota has already been set",
        );
    }
    if wanted.cpu_period > 0 && host.nano_cpus > 0 {
        return conflict(
            "Conflicting options: CPU Period cannot be updated as NanoCPUs has already been set",
        );
    }
    if wanted.cpu_quota > 0 && host.nano_cpus > 0 {
        return conflict(
            "Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set",
        );
    }
    if wanted.memory != 0 && wanted.memory > host.memory_swap && wanted.memory_swap == 0 {
        return conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        );
    }
    let policy = &wanted.restart_policy;
    if host.auto_remove && !matches!(policy.name.as_str(), "" | "no") {
        return conflict(
            "Restart policy cannot be updated because AutoRemove is enabled for the container",
        );
    }
    if !policy.name.is_empty() {
        host.restart_policy.clone_from(policy);
    }
    limits(host, wanted);
    Ok(())
}

fn limits(host: &mut HostConfig, wanted: &HostConfig) {
    fn number(to: &mut i64, from: i64) {
        if from != 0 {
            *to = from;
        }
    }
    fn optional<T: Clone>(to: &mut Option<T>, from: &Option<T>) {
        if from.is_some() {
            to.clone_from(from);
        }
    }
    number(&mut host.cpu_shares, wanted.cpu_shares);
    number(&mut host.nano_cpus, wanted.nano_cpus);
    number(&mut host.cpu_period, wanted.cpu_period);
    number(&mut host.cpu_quota, wanted.cpu_quota);
    number(&mut host.cpu_realtime_period, wanted.cpu_realtime_period);
    number(&mut host.cpu_realtime_runtime, wanted.cpu_realtime_runtime);
    number(&mut host.memory, wanted.memory);
    number(&mut host.memory_swap, wanted.memory_swap);
    number(&mut host.memory_reservation, wanted.memory_reservation);
    if wanted.blkio_weight != 0 {
        host.blkio_weight = wanted.blkio_weight;
    }
    for (to, from) in [
        (&mut host.cpuset_cpus, &wanted.cpuset_cpus),
        (&mut host.cpuset_mems, &wanted.cpuset_mems),
    ] {
        if !from.is_empty() {
            to.clone_from(from);
        }
    }
    optional(&mut host.pids_limit, &wanted.pids_limit);
    optional(&mut host.blkio_weight_device, &wanted.blkio_weight_device);
    for (to, from) in [
        (
            &mut host.blkio_device_read_bps,
            &wanted.blkio_device_read_bps,
        ),
        (
            &mut host.blkio_device_write_bps,
            &wanted.blkio_device_write_bps,
        ),
        (
            &mut host.blkio_device_read_iops,
            &wanted.blkio_device_read_iops,
        ),
        (
            &mut host.blkio_device_write_iops,
            &wanted.blkio_device_write_iops,
        ),
    ] {
        optional(to, from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> HostConfig {
        serde_json::from_str(text).expect("host configuration")
    }

    #[test]
    fn rules() {
        for (have, wanted, refused) in [
            (r#"{}"#, r#"{"Memory":67108864}"#, true),
            (
                r#"{"Memory":6291456,"MemorySwap":-1}"#,
                r#"{"Memory":67108864}"#,
                true,
            ),
            (
                r#"{}"#,
                r#"{"Memory":67108864,"MemorySwap":67108864}"#,
                false,
            ),
            (r#"{"CpuPeriod":1000}"#, r#"{"NanoCpus":1000000000}"#, true),
            (r#"{"CpuQuota":1000}"#, r#"{"NanoCpus":1000000000}"#, true),
            (r#"{"NanoCpus":1}"#, r#"{"CpuQuota":1000}"#, true),
            (r#"{"NanoCpus":1}"#, r#"{"CpuShares":1000}"#, false),
            (
                r#"{"AutoRemove":true}"#,
                r#"{"RestartPolicy":{"Name":"always"}}"#,
                true,
            ),
            (
                r#"{"AutoRemove":true}"#,
                r#"{"RestartPolicy":{"Name":"no"}}"#,
                false,
            ),
        ] {
            let mut host = read(have);
            let result = merge(&mut host, &read(wanted));
            assert_eq!(result.is_err(), refused, "{have} {wanted}");
        }
    }

    #[test]
    fn zero_changes_nothing() {
        let text = r#"{"CpuShares":5,"Memory":7,"MemorySwap":9,"CpusetCpus":"0","PidsLimit":3,"BlkioWeight":10,
            "RestartPolicy":{"Name":"on-failure","MaximumRetryCount":2}}"#;
        let mut host = read(text);
        merge(&mut host, &read("{}")).expect("nothing asked");
        assert_eq!(host, read(text));
        merge(&mut host, &read(r#"{"PidsLimit":0,"CpusetCpus":"1"}"#)).expect("fine");
        assert_eq!((host.pids_limit, host.cpuset_cpus.as_str()), (Some(0), "1"));
    }
}
