//! Opening an engine: store, network, zygote, then the containers that were there before.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
};

use longshore_model::{Error, Event, Result, config::DaemonConfig, id::random_hex};
use longshore_network::{AddressPool, Manager, ManagerConfig, Subnet, default_pools, local_pool};
use longshore_shim::client::spawn_zygote;
use longshore_store::{Batch, Durability, Store, Table};
use tokio::sync::{Semaphore, watch};

use crate::{
    Engine, Inner, container, events::Hub, log_watch::LogWatches, network, security, system::Facts,
    volume::Volumes,
};

impl Engine {
    /// Opens the data root (locked: one daemon each), brings network and zygote up, adopts the containers.
    ///
    /// # Errors
    /// Another daemon has the data root; a directory, the database, or the bridge cannot be made.
    pub async fn open(config: DaemonConfig) -> Result<Self> {
        let runtime = tokio::runtime::Handle::current();
        let inner = crate::blocking(move || open(config, runtime)).await?;
        let engine = Self {
            inner: Arc::new(inner),
        };
        engine.inner.log_watches.run()?;
        let store = engine.inner.store.clone();
        // A machine without a registry can run a first container; the payload is this very binary.
        let hello = crate::blocking(move || {
            let payload = Path::new("/proc/self/exe");
            store
                .images()
                .ensure_hello_image(payload, &mut |_| Vec::new())
        });
        if let Err(error) = hello.await {
            tracing::error!("no longshore/hello image: {error}");
        }
        container::recover::recover(&engine.inner).await?;
        engine.undo_commit_pauses().await;
        engine.watch_image_pressure();
        Ok(engine)
    }
}

fn open(config: DaemonConfig, runtime: tokio::runtime::Handle) -> Result<Inner> {
    make_dir(&config.data_root, 0o710)?;
    make_dir(&config.exec_root, 0o711)?;
    make_dir(&config.exec_root.join("containers"), 0o711)?;
    let hub = Arc::new(Hub::default());
    let images = hub.clone();
    // Other events go out through `Inner::commit`, after the snapshots that they speak of.
    let publish = move |events: &[Event]| {
        let own: Vec<_> = events
            .iter()
            .filter(|event| event.kind == "image")
            .cloned()
            .collect();
        images.publish(&own);
    };
    let (store, report) = Store::open(&config.data_root, Box::new(publish))?;
    hub.starts_at(store.last_seq());
    for row in &report.quarantined {
        tracing::error!("quarantined record: {row:?}");
    }
    if let Some((path, _)) = &report.moved_aside {
        tracing::error!("the database was corrupt and is now at {}", path.display());
    }
    let id = daemon_id(&store)?;
    let manager = Manager::open(ManagerConfig {
        name: table_name(&config.bridge.name),
        ip_forward: config.bridge.ip_forward,
        default_ip: config.bridge.default_ip,
        pools: address_pools(&config, &id),
        on_repair: Box::new(|what| tracing::warn!("firewall: {what}")),
        on_repaired: repaired(&id, &config.bridge.name, &store, &hub),
    })?;
    let bridge = network::bridge(&manager, &config.bridge)?;
    let whole = report.moved_aside.is_none() && report.quarantined.is_empty();
    let networks = network::Networks::open(&store)?;
    // Links of networks whose records are lost may have containers on them.
    network::restore(&manager, &networks, whole);
    let zygote = spawn_zygote().map_err(|e| Error::io("start the zygote", e))?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Ok(Inner {
        id,
        hub,
        last_use: crate::image::LastUse::default(),
        containers: container::registry::Registry::default(),
        execs: container::exec::Execs::default(),
        volumes: Volumes::open(&store)?,
        volume_uses: crate::volume_use::VolumeUses::default(),
        networks,
        network: manager,
        dns: longshore_network::dns::Resolver::new()?,
        bridge,
        filters: security::Filters::default(),
        facts: Facts::read(),
        samplers: crate::stats::Samplers::default(),
        log_watches: LogWatches::new()?,
        registry: crate::pull::registry(&config),
        downloads: crate::pull::Downloads::new(config.max_concurrent_downloads),
        start_slots: Semaphore::new(2 * cores),
        runtime,
        closing: watch::channel(false).0,
        zygote: Mutex::new(Some(zygote)),
        store_whole: whole,
        store,
        config,
    })
}

/// What networks get their subnets from: Docker's pools unless there are others, and unique local ones for IPv6.
fn address_pools(config: &DaemonConfig, id: &str) -> Vec<AddressPool> {
    let mut pools: Vec<AddressPool> = config
        .default_address_pools
        .iter()
        .map(|pool| AddressPool {
            base: Subnet::of(pool.base.0, pool.base.1),
            size: pool.size,
        })
        .collect();
    if !pools.iter().any(|pool| pool.base.address.is_ipv4()) {
        pools.extend(default_pools());
    }
    if !pools.iter().any(|pool| pool.base.address.is_ipv6()) {
        pools.push(local_pool(id));
    }
    pools
}

/// Says in the events that somebody had changed our firewall rules and that they are whole again.
fn repaired(
    id: &str,
    bridge: &str,
    store: &Store,
    hub: &Arc<Hub>,
) -> Box<dyn Fn(&str) + Send + Sync> {
    let (id, table, store, hub) = (
        id.to_owned(),
        table_name(bridge),
        store.clone(),
        hub.clone(),
    );
    Box::new(move |why| {
        let attributes = BTreeMap::from([
            ("name".to_owned(), crate::system::hostname()),
            ("reason".to_owned(), why.to_owned()),
            ("table".to_owned(), table.clone()),
        ]);
        let mut batch = Batch::new();
        batch.event(crate::events::event(
            "daemon",
            "firewall-repair",
            &id,
            attributes,
        ));
        let hub = hub.clone();
        let publish = move |result: Result<Vec<Event>>| {
            if let Ok(events) = result {
                hub.publish(&events);
            }
        };
        store.submit(batch, Durability::Survives, Box::new(publish));
    })
}

/// One table an engine, named by its bridge, so that engines run side by side.
fn table_name(bridge: &str) -> String {
    if bridge == "docker0" {
        "longshore".to_owned()
    } else {
        format!("longshore-{bridge}")
    }
}

fn make_dir(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path);
    made.map_err(|e| Error::io(format!("mkdir {}", path.display()), e))
}

/// Made once for a data root.
fn daemon_id(store: &Store) -> Result<String> {
    if let Some((_, bytes)) = store
        .records(Table::Meta)?
        .into_iter()
        .find(|(key, _)| key == "id")
    {
        return String::from_utf8(bytes).map_err(|e| Error::system(e.to_string()));
    }
    let hex = random_hex();
    let id = format!(
        "{}-{}-4{}-a{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[13..16],
        &hex[17..20],
        &hex[20..32]
    );
    let mut batch = Batch::new();
    batch.put(Table::Meta, "id", id.clone().into_bytes());
    store.commit(batch, Durability::Durable)?;
    Ok(id)
}
