//! `GET /system/df`

use longshore_engine::DiskUsage;
use longshore_model::{Error, Result, Timestamp};
use serde::Serialize;
use serde_json::Value;

use crate::{
    containers::list::summary,
    images::summary::{Summary as Image, users},
    request::Request,
    response::Response,
    volumes::{Usage, Volume},
};

/// Both shapes: the lists of clients before 1.52, and the sums of those since.
#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct View {
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    lists: Option<Lists>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_usage: Option<Sum>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_usage: Option<Sum>,
    #[serde(skip_serializing_if = "Option::is_none")]
    volume_usage: Option<Sum>,
    #[serde(skip_serializing_if = "Option::is_none")]
    build_cache_usage: Option<Sum>,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Lists {
    layers_size: u64,
    images: Value,
    containers: Value,
    volumes: Value,
    build_cache: Value,
}

/// What one kind of objects takes; zeros are left out, as in dockerd.
#[derive(Clone, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Sum {
    #[serde(skip_serializing_if = "is_zero")]
    active_count: u64,
    #[serde(skip_serializing_if = "is_empty")]
    items: Value,
    #[serde(skip_serializing_if = "is_zero")]
    reclaimable: u64,
    #[serde(skip_serializing_if = "is_zero")]
    total_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    total_size: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn is_empty(value: &Value) -> bool {
    value.as_array().is_none_or(Vec::is_empty)
}

impl Sum {
    /// Adds one object: its size, and whether something uses it.
    fn add(&mut self, size: u64, active: bool) {
        self.total_count += 1;
        self.total_size += size;
        if active {
            self.active_count += 1;
        } else {
            self.reclaimable += size;
        }
    }
}

fn tree(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// Which kinds were asked for; all when none was named.
fn kinds(request: &Request) -> Result<[bool; 4]> {
    const NAMES: [&str; 4] = ["image", "container", "volume", "build-cache"];
    let mut wanted = [false; 4];
    for kind in request.query.all("type") {
        let at = NAMES.iter().position(|name| *name == kind);
        let at = at.ok_or_else(|| Error::invalid(format!("unknown object type: {kind}")))?;
        wanted[at] = true;
    }
    Ok(if wanted.contains(&true) {
        wanted
    } else {
        [true; 4]
    })
}

/// `GET /system/df`
pub(crate) async fn disk_usage(request: Request) -> Result<Response> {
    let [images, containers, volumes, cache] = kinds(&request)?;
    let usage = request.engine.disk_usage().await?;
    let DiskUsage {
        layers_size,
        images: image_list,
        container_sizes,
        volumes: volume_list,
    } = usage;
    let users = users(&request.engine);
    let mut image_sum = Sum::default();
    // What only images in use have stays.
    let mut kept = 0;
    let image_list: Vec<_> = image_list
        .into_iter()
        .map(|image| {
            let users = users.get(&image.id).copied().unwrap_or_default();
            image_sum.add(image.size, users > 0);
            if users > 0 {
                kept += image
                    .size
                    .saturating_sub(u64::try_from(image.shared_size).unwrap_or(0));
            }
            Image::new(image, users)
        })
        .collect();
    // Shared blobs count once.
    image_sum.total_size = layers_size;
    image_sum.reclaimable = layers_size.saturating_sub(kept);
    let now = Timestamp::now();
    let mut container_sum = Sum::default();
    let container_list: Vec<Value> = request
        .engine
        .containers()
        .iter()
        .map(|container| {
            let sizes = container_sizes.get(container.id.as_str()).copied();
            container_sum.add(sizes.map_or(0, |(rw, _)| rw), container.state.running());
            tree(&summary(container, sizes, request.version, now))
        })
        .collect();
    let mut volume_sum = Sum::default();
    let volume_list: Vec<_> = volume_list
        .into_iter()
        .map(|volume| {
            let (ref_count, size) = (volume.ref_count, volume.size);
            volume_sum.add(u64::try_from(size).unwrap_or(0), ref_count > 0);
            let mut view = Volume::from(volume);
            view.usage_data = Some(Usage { ref_count, size });
            view
        })
        .collect();
    let (image_list, volume_list) = (tree(&image_list), tree(&volume_list));
    let container_list = Value::from(container_list);
    // Clients that do not say whether they want details get both shapes.
    let verbose = request.query.opt("verbose");
    let new = request.version.since(52);
    let pick = |wanted: bool, list: &Value| if wanted { list.clone() } else { Value::Null };
    let lists = (!new || verbose.is_none()).then(|| Lists {
        layers_size: if images { layers_size } else { 0 },
        images: pick(images, &image_list),
        containers: pick(containers, &container_list),
        volumes: pick(volumes, &volume_list),
        build_cache: pick(cache, &Value::Array(Vec::new())),
    });
    let items = verbose.is_none() || request.query.bool("verbose");
    let sum = |wanted: bool, mut sum: Sum, list: Value| {
        if items {
            sum.items = list;
        }
        (new && wanted).then_some(sum)
    };
    Ok(Response::ok(&View {
        lists,
        image_usage: sum(images, image_sum, image_list),
        container_usage: sum(containers, container_sum, container_list),
        volume_usage: sum(volumes, volume_sum, volume_list),
        build_cache_usage: sum(cache, Sum::default(), Value::Null),
    }))
}
