//! The life of a container through the API, as a client drives it.

use std::{
    fmt,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use e2e::{
    check::{Fail, Outcome},
    fail,
    http::Connection,
};
use serde_json::{Value, json};

/// What the containers are connected to.
#[derive(Clone, Copy, Debug)]
pub enum Network {
    None,
    Bridge,
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Bridge => "bridge",
        })
    }
}

/// How hard a throughput measure pushes.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub flight: usize,
    pub seconds: u64,
}

pub fn connect(socket: &Path) -> Outcome<Connection> {
    Ok(Connection::open(socket)?)
}

const JSON: (&str, &str) = ("Content-Type", "application/json");

fn create(connection: &mut Connection, command: &[&str], network: Network) -> Outcome<String> {
    let body = json!({"Image": "busybox", "Cmd": command, "HostConfig": {"NetworkMode": network.to_string()}}).to_string();
    let answer = connection
        .call(
            "POST",
            "/v1.41/containers/create",
            &[JSON],
            Some(body.as_bytes()),
        )?
        .expect(201)?;
    Ok(answer.json()?["Id"].as_str().unwrap_or_default().to_owned())
}

/// create, start, wait, remove of a container that runs `true`; four requests on one connection.
pub fn once(connection: &mut Connection, network: Network) -> Outcome<Duration> {
    let start = Instant::now();
    let id = create(connection, &["/bin/true"], network)?;
    connection
        .call(
            "POST",
            &format!("/v1.41/containers/{id}/start"),
            &[],
            Some(b""),
        )?
        .expect(204)?;
    let code: Value = connection
        .call(
            "POST",
            &format!("/v1.41/containers/{id}/wait"),
            &[],
            Some(b""),
        )?
        .expect(200)?
        .json()?;
    if code["StatusCode"] != 0 {
        fail!("wait answered {code}");
    }
    connection
        .call("DELETE", &format!("/v1.41/containers/{id}"), &[], None)?
        .expect(204)?;
    Ok(start.elapsed())
}

/// Cycles a second with `load.flight` clients, each doing one cycle after the other.
pub fn rate(socket: &Path, load: Load, network: Network) -> Outcome<f64> {
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    let start = Instant::now();
    let took = thread::scope(|scope| -> Outcome<Duration> {
        let clients: Vec<_> = (0..load.flight)
            .map(|_| {
                scope.spawn(|| -> Outcome {
                    let mut connection = connect(socket)?;
                    while !stop.load(Ordering::Relaxed) {
                        once(&mut connection, network)?;
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        thread::sleep(Duration::from_secs(load.seconds));
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client
                .join()
                .unwrap_or_else(|_| Err(Fail("a client panicked".into())))?;
        }
        Ok(start.elapsed())
    })?;
    Ok(done.load(Ordering::Relaxed) as f64 / took.as_secs_f64())
}

/// Runs `count` cycles, eight at once, or as many as the time allows.
pub fn many(socket: &Path, count: usize, limit: Duration) -> Outcome {
    let (next, end) = (AtomicUsize::new(0), Instant::now() + limit);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| -> Outcome {
                    let mut connection = connect(socket)?;
                    while next.fetch_add(1, Ordering::Relaxed) < count && Instant::now() < end {
                        once(&mut connection, Network::Bridge)?;
                    }
                    Ok(())
                })
            })
            .collect();
        clients.into_iter().try_for_each(|c| {
            c.join()
                .unwrap_or_else(|_| Err(Fail("a client panicked".into())))
        })
    })
}

/// Starts containers that sleep, on the bridge; gives their ids.
pub fn sleepers(socket: &Path, count: usize) -> Outcome<Vec<String>> {
    let (next, ids) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| -> Outcome {
                    let mut connection = connect(socket)?;
                    while next.fetch_add(1, Ordering::Relaxed) < count {
                        let id = create(&mut connection, &["sleep", "100000"], Network::Bridge)?;
                        connection
                            .call(
                                "POST",
                                &format!("/v1.41/containers/{id}/start"),
                                &[],
                                Some(b""),
                            )?
                            .expect(204)?;
                        if let Ok(mut ids) = ids.lock() {
                            ids.push(id);
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        clients.into_iter().try_for_each(|c| {
            c.join()
                .unwrap_or_else(|_| Err(Fail("a client panicked".into())))
        })
    })?;
    Ok(ids.into_inner().unwrap_or_default())
}

/// Removes containers by force.
pub fn remove_all(socket: &Path, ids: &[String]) -> Outcome {
    let mut connection = connect(socket)?;
    for id in ids {
        connection
            .call(
                "DELETE",
                &format!("/v1.41/containers/{id}?force=1"),
                &[],
                None,
            )?
            .expect(204)?;
    }
    Ok(())
}
