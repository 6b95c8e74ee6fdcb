//! What a case works with: the engine's address, names of its own, and short ways to say the usual things.

use std::{
    fs,
    io::{Read, Write},
    path::PathBuf,
    process::{Command, Stdio},
    sync::Mutex,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use e2e::{
    check::{Fail, Outcome, patience, until},
    engine, fail, frames,
    frames::Frame,
    http::{Connection, Response, escape},
    same,
};
use serde_json::{Value, json};

/// What the whole run knows.
#[derive(Clone, Debug)]
pub struct World {
    pub socket: PathBuf,
    /// Highest API version of the engine.
    pub api: (u32, u32),
    /// The program of the engine, when daemons may be started.
    pub binary: Option<PathBuf>,
    /// `docker load` archive with busybox and hello-world.
    pub archive: PathBuf,
    pub scratch: PathBuf,
    pub marker: String,
}

/// What a case works with.
pub struct Ctx {
    pub world: World,
    /// In front of every name that the case gives away; its leftovers are found by it.
    pub prefix: String,
    /// Containers that were made without a name of the case's.
    pub unnamed: Mutex<Vec<String>>,
}

/// The end of a command or a container.
#[derive(Debug, Clone, Default)]
pub struct Out {
    pub code: i64,
    pub stdout: String,
    pub stderr: String,
}

impl Out {
    /// Fails unless the exit code was 0.
    pub fn ok(self) -> Outcome<Self> {
        if self.code != 0 {
            fail!("exit code {}: {}{}", self.code, self.stdout, self.stderr);
        }
        Ok(self)
    }

    /// Standard output without its last line end.
    pub fn line(&self) -> &str {
        self.stdout.trim_end()
    }
}

/// Seconds since the epoch with their fraction, as `since` and `until` take them.
pub fn now() -> String {
    let time = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    format!("{}.{:09}", time.as_secs(), time.subsec_nanos())
}

/// Puts the fields of `over` into `base`, object by object.
pub fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}

impl Ctx {
    pub fn name(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.prefix)
    }

    /// Whether the engine's newest API is at least 1.`minor`.
    pub fn api(&self, minor: u32) -> bool {
        self.world.api >= (1, minor)
    }

    /// Whether a status says that the request was wrong; daemons before API 1.44 sometimes answer 500 to that.
    pub fn refused(&self, status: u16) -> bool {
        (400..500).contains(&status) || (status == 500 && !self.api(44))
    }

    pub fn connect(&self) -> Outcome<Connection> {
        Ok(Connection::open(&self.world.socket)?)
    }

    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Outcome<Response> {
        let answer = engine::call(&self.world.socket, method, path, body)
            .map_err(|e| Fail(format!("{method} {path}: {e}")))?;
        if answer.status == 201 && path.ends_with("/containers/create") {
            let made = answer.json()?;
            if let (Some(id), Ok(mut unnamed)) = (made["Id"].as_str(), self.unnamed.lock()) {
                unnamed.push(id.to_owned());
            }
        }
        Ok(answer)
    }

    pub fn get(&self, path: &str) -> Outcome<Response> {
        self.call("GET", path, None)
    }

    /// GET that must answer 200 with JSON.
    pub fn json(&self, path: &str) -> Outcome<Value> {
        self.get(path)?.expect(200)?.json()
    }

    pub fn post(&self, path: &str, body: &Value) -> Outcome<Response> {
        self.call("POST", path, Some(body))
    }

    /// POST without a body.
    pub fn act(&self, path: &str) -> Outcome<Response> {
        self.call("POST", path, None)
    }

    pub fn delete(&self, path: &str) -> Outcome<Response> {
        self.call("DELETE", path, None)
    }

    /// Creates a busybox container with `body` laid over the defaults; gives its id.
    pub fn create(&self, suffix: &str, body: &Value) -> Outcome<String> {
        let mut full = json!({"Image": "busybox", "Labels": {"e2e": self.prefix}});
        merge(&mut full, body);
        let answer = self.post(
            &format!("/containers/create?name={}", self.name(suffix)),
            &full,
        )?;
        let value = answer.expect(201)?.json()?;
        Ok(value["Id"].as_str().unwrap_or_default().to_owned())
    }

    pub fn start(&self, id: &str) -> Outcome {
        self.act(&format!("/containers/{id}/start"))?
            .expect(204)
            .map(drop)
    }

    /// Creates and starts; gives the id.
    pub fn launch(&self, suffix: &str, body: &Value) -> Outcome<String> {
        let id = self.create(suffix, body)?;
        self.start(&id)?;
        Ok(id)
    }

    /// A container that sleeps, for cases that need a running one.
    pub fn sleeper(&self, suffix: &str) -> Outcome<String> {
        self.launch(suffix, &json!({"Cmd": ["sleep", "600"]}))
    }

    pub fn inspect(&self, id: &str) -> Outcome<Value> {
        self.json(&format!("/containers/{id}/json"))
    }

    /// Waits for the end; gives the exit code.
    pub fn wait(&self, id: &str) -> Outcome<i64> {
        let answer = self
            .act(&format!("/containers/{id}/wait"))?
            .expect(200)?
            .json()?;
        answer["StatusCode"]
            .as_i64()
            .ok_or_else(|| Fail(format!("wait answered {answer}")))
    }

    pub fn kill(&self, id: &str) -> Outcome {
        self.act(&format!("/containers/{id}/kill"))?
            .expect(204)
            .map(drop)
    }

    pub fn remove(&self, id: &str) -> Outcome {
        self.delete(&format!("/containers/{id}?force=1&v=1"))?
            .expect(204)
            .map(drop)
    }

    /// The frames of a container's log; `query` goes on after `stdout=1&stderr=1`.
    pub fn log_frames(&self, id: &str, query: &str) -> Outcome<Vec<Frame>> {
        let path = format!("/containers/{id}/logs?stdout=1&stderr=1{query}");
        frames::all(&mut &self.get(&path)?.expect(200)?.body[..])
    }

    /// Standard output and error as the log has them.
    pub fn logs(&self, id: &str, query: &str) -> Outcome<(String, String)> {
        let frames = self.log_frames(id, query)?;
        Ok((frames::joined(&frames, 1), frames::joined(&frames, 2)))
    }

    /// Runs a container to its end and removes it.
    pub fn run(&self, suffix: &str, body: &Value) -> Outcome<Out> {
        let id = self.launch(suffix, body)?;
        let code = self.wait(&id)?;
        let (stdout, stderr) = self.logs(&id, "")?;
        self.remove(&id)?;
        Ok(Out {
            code,
            stdout,
            stderr,
        })
    }

    /// Runs a shell script in a container with this HostConfig.
    pub fn sh(&self, suffix: &str, host: Value, script: &str) -> Outcome<Out> {
        self.run(
            suffix,
            &json!({"Cmd": ["sh", "-c", script], "HostConfig": host}),
        )
    }

    /// Runs a command by exec and gives what it printed.
    pub fn exec(&self, id: &str, body: &Value) -> Outcome<Out> {
        let mut full = json!({"AttachStdout": true, "AttachStderr": true});
        merge(&mut full, body);
        let made = self
            .post(&format!("/containers/{id}/exec"), &full)?
            .expect(201)?
            .json()?;
        let exec = made["Id"].as_str().unwrap_or_default().to_owned();
        let answer = self
            .post(&format!("/exec/{exec}/start"), &json!({"Detach": false}))?
            .expect(200)?;
        let frames = frames::all(&mut &answer.body[..])?;
        let state = self.json(&format!("/exec/{exec}/json"))?;
        let Some(code) = state["ExitCode"].as_i64() else {
            fail!("no exit code when the stream ended: {state}");
        };
        Ok(Out {
            code,
            stdout: frames::joined(&frames, 1),
            stderr: frames::joined(&frames, 2),
        })
    }

    /// Runs a shell script by exec.
    pub fn exec_sh(&self, id: &str, script: &str) -> Outcome<Out> {
        self.exec(id, &json!({"Cmd": ["sh", "-c", script]}))
    }

    /// Events between two moments, oldest first; `filters` is a JSON object or empty.
    pub fn events(&self, since: &str, till: &str, filters: &Value) -> Outcome<Vec<Value>> {
        let path = format!(
            "/events?since={since}&until={till}&filters={}",
            escape(&filters.to_string())
        );
        let body = self.get(&path)?.expect(200)?.text();
        body.lines()
            .filter(|l| !l.trim().is_empty())
            .map(|l| Ok(serde_json::from_str(l)?))
            .collect()
    }

    /// A hijacked connection: sends the request with `Upgrade: tcp` and takes the 101.
    pub fn hijack(&self, path: &str, body: Option<&Value>) -> Outcome<Connection> {
        let mut connection = self.connect()?;
        let bytes = body.map(|b| b.to_string().into_bytes()).unwrap_or_default();
        let headers = [
            ("Content-Type", "application/json"),
            ("Connection", "Upgrade"),
            ("Upgrade", "tcp"),
        ];
        connection.request("POST", path, &headers, Some(&bytes))?;
        let (status, headers) = connection.head("POST")?;
        if status != 101 {
            let mut text = String::new();
            connection.read_to_string(&mut text)?;
            fail!("status {status} instead of 101: {text}");
        }
        same!(headers.get("Upgrade").to_ascii_lowercase(), "tcp");
        same!(headers.get("Connection").to_ascii_lowercase(), "upgrade");
        Ok(connection)
    }

    /// Waits until the container has this status.
    pub fn status(&self, id: &str, wanted: &str) -> Outcome {
        until(20, &format!("status {wanted}"), || {
            let state = self.inspect(id)?;
            Ok((state["State"]["Status"] == wanted).then_some(()))
        })
    }

    /// Waits until the container's log has this text.
    pub fn log_has(&self, id: &str, text: &str) -> Outcome {
        until(20, &format!("log with {text:?}"), || {
            let (out, err) = self.logs(id, "")?;
            Ok((out + &err).contains(text).then_some(()))
        })
    }

    /// The docker CLI.
    pub fn docker(&self, words: &[&str]) -> Outcome<Out> {
        self.docker_with(words, "")
    }

    /// The docker CLI with a standard input.
    pub fn docker_with(&self, words: &[&str], input: &str) -> Outcome<Out> {
        let mut command = Command::new("docker");
        command.args(words);
        self.command(command, input)
    }

    /// Any command with the engine in its environment; ended after a minute (times [`patience`]).
    pub fn command(&self, command: Command, input: &str) -> Outcome<Out> {
        let mut limited = Command::new("timeout");
        limited
            .args(["-k", "2", &(60 * patience()).to_string()])
            .arg(command.get_program())
            .args(command.get_args());
        let config = self.world.scratch.join("docker-config");
        fs::create_dir_all(&config)?;
        limited
            .env(
                "DOCKER_HOST",
                format!("unix://{}", self.world.socket.display()),
            )
            .env("DOCKER_CONFIG", config)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = limited.spawn()?;
        let stdin = child.stdin.take();
        let text = input.to_owned();
        let feeder = thread::spawn(move || stdin.map(|mut pipe| pipe.write_all(text.as_bytes())));
        let output = child.wait_with_output()?;
        let _ = feeder.join();
        Ok(Out {
            code: i64::from(output.status.code().unwrap_or(-1)),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Takes away everything that the case named.
    pub fn clean(&self) -> Outcome {
        for id in self
            .unnamed
            .lock()
            .map(|mut ids| std::mem::take(&mut *ids))
            .unwrap_or_default()
        {
            self.delete(&format!("/containers/{id}?force=1&v=1"))?;
        }
        let own = format!("{}.", self.prefix);
        let mine = |name: &str| name.trim_start_matches('/').starts_with(&own);
        let filter = escape(&json!({"name": [self.prefix]}).to_string());
        for one in self
            .json(&format!("/containers/json?all=1&filters={filter}"))?
            .as_array()
            .into_iter()
            .flatten()
        {
            let names = one["Names"].as_array().into_iter().flatten();
            if names.filter_map(Value::as_str).any(mine) {
                let id = one["Id"].as_str().unwrap_or_default();
                until(10, "removal of a leftover container", || {
                    let answer = self.delete(&format!("/containers/{id}?force=1&v=1"))?;
                    Ok(matches!(answer.status, 204 | 404).then_some(()))
                })?;
            }
        }
        for one in self.json(&format!("/volumes?filters={filter}"))?["Volumes"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let name = one["Name"].as_str().unwrap_or_default();
            if mine(name) {
                self.delete(&format!("/volumes/{name}?force=1"))?;
            }
        }
        for one in self
            .json(&format!("/networks?filters={filter}"))?
            .as_array()
            .into_iter()
            .flatten()
        {
            let name = one["Name"].as_str().unwrap_or_default();
            if mine(name) {
                self.delete(&format!("/networks/{name}"))?;
            }
        }
        for one in self.json("/images/json")?.as_array().into_iter().flatten() {
            for tag in one["RepoTags"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
            {
                if tag.starts_with(&own) {
                    self.delete(&format!("/images/{tag}?force=1"))?;
                }
            }
        }
        Ok(())
    }
}

/// Seconds since the epoch, with fraction, of a time as the engine prints it (`2026-11-24T03:50:02.072996038Z`).
pub fn seconds(time: &str) -> Outcome<String> {
    let number = |range: std::ops::Range<usize>| -> Outcome<i64> {
        Ok(time.get(range).unwrap_or_default().parse()?)
    };
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let shifted = if month > 2 { year } else { year - 1 };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = shifted * 365 + shifted / 4 - shifted / 100 + shifted / 400 + day_of_year - 719_468;
    let fraction = time.get(19..).unwrap_or_default().trim_end_matches('Z');
    Ok(format!(
        "{}{fraction}",
        days * 86_400 + hour * 3600 + minute * 60 + second
    ))
}

/// Sleeps; only where the passing of time itself is what a case is about.
pub fn pause(milliseconds: u64) {
    thread::sleep(Duration::from_millis(milliseconds));
}
