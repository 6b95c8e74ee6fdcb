//! Verbs that do one thing to each name given.

use super::{
    failure::{Done, Failure},
    http::{Client, escape, query},
    image,
    text::{emit, emit_error},
};
use crate::flags::Parsed;

/// Does `action` to each name and prints what it returns; a failure is printed and the next name has its turn.
///
/// # Errors
/// The names that failed.
pub async fn each(
    names: &[String],
    action: impl AsyncFn(&str) -> Done<String>,
) -> Result<(), Vec<String>> {
    let mut failed = Vec::new();
    for name in names {
        match action(name).await {
            Ok(text) => emit(text),
            Err(failure) => {
                emit_error(format!("{}\n", failure.message));
                failed.push(name.clone());
            }
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(failed)
    }
}

/// [`each`] with `POST /containers/{name}/{verb}`, printing the name.
async fn post_each(client: &Client, parsed: &Parsed, tail: &str) -> Done {
    each(&parsed.arguments, async |name: &str| {
        client
            .post(&format!("/containers/{}/{tail}", escape(name)), None)
            .await?;
        Ok(format!("{name}\n"))
    })
    .await
    .map_err(|_| Failure::status(1))
}

/// Seconds for `stop` and `restart`; `--time` is the old name.
fn patience(parsed: &Parsed) -> String {
    let seconds = parsed.text("timeout").or(parsed.text("time"));
    query(&[
        ("signal", parsed.text_or_empty("signal")),
        ("t", seconds.unwrap_or_default()),
    ])
}

pub async fn stop(client: &Client, parsed: &Parsed) -> Done {
    post_each(client, parsed, &format!("stop{}", patience(parsed))).await
}

pub async fn restart(client: &Client, parsed: &Parsed) -> Done {
    post_each(client, parsed, &format!("restart{}", patience(parsed))).await
}

pub async fn kill(client: &Client, parsed: &Parsed) -> Done {
    let signal = query(&[("signal", parsed.text("signal").unwrap_or("KILL"))]);
    post_each(client, parsed, &format!("kill{signal}")).await
}

pub async fn pause(client: &Client, parsed: &Parsed) -> Done {
    post_each(client, parsed, "pause").await
}

pub async fn unpause(client: &Client, parsed: &Parsed) -> Done {
    post_each(client, parsed, "unpause").await
}

pub async fn wait(client: &Client, parsed: &Parsed) -> Done {
    each(&parsed.arguments, async |name: &str| {
        let answer = client
            .post(&format!("/containers/{}/wait", escape(name)), None)
            .await?;
        Ok(format!("{}\n", answer["StatusCode"]))
    })
    .await
    .map_err(|_| Failure::status(1))
}

pub async fn rename(client: &Client, parsed: &Parsed) -> Done {
    let [old, new] = &parsed.arguments[..] else {
        return Err(Failure::usage("'longshore rename' requires 2 arguments"));
    };
    let path = format!(
        "/containers/{}/rename{}",
        escape(old),
        query(&[("name", new)])
    );
    client.post(&path, None).await.map(drop)
}

pub async fn rm(client: &Client, parsed: &Parsed) -> Done {
    let on = |flag: &str| if parsed.on(flag) { "1" } else { "" };
    let options = query(&[
        ("force", on("force")),
        ("link", on("link")),
        ("v", on("volumes")),
    ]);
    each(&parsed.arguments, async |name: &str| {
        let path = format!("/containers/{}{options}", escape(name.trim_matches('/')));
        match client.delete(&path).await {
            // What is gone needs no force: a note, and success, as Docker has it.
            Err(failure) if failure.http == 404 && parsed.on("force") => {
                emit_error(format!("{}\n", failure.message));
                Ok(String::new())
            }
            Err(failure) => Err(failure),
            Ok(_) => Ok(format!("{name}\n")),
        }
    })
    .await
    .map_err(|_| Failure::status(1))
}

pub async fn rmi(client: &Client, parsed: &Parsed) -> Done {
    let on = |flag: &str| if parsed.on(flag) { "1" } else { "" };
    let options = query(&[("force", on("force")), ("noprune", on("no-prune"))]);
    each(&parsed.arguments, async |name: &str| {
        let gone = client
            .delete(&format!("/images/{}{options}", image::path(name)))
            .await?;
        let mut out = String::new();
        for line in gone.as_array().into_iter().flatten() {
            for (key, word) in [("Deleted", "Deleted"), ("Untagged", "Untagged")] {
                if let Some(what) = line[key].as_str() {
                    out.push_str(&format!("{word}: {what}\n"));
                }
            }
        }
        Ok(out)
    })
    .await
    .map_err(|_| Failure::status(1))
}

pub async fn tag(client: &Client, parsed: &Parsed) -> Done {
    let [source, target] = &parsed.arguments[..] else {
        return Err(Failure::usage("'longshore tag' requires 2 arguments"));
    };
    let (repository, tag) = image::split_tag(target);
    let path = format!(
        "/images/{}/tag{}",
        image::path(source),
        query(&[("repo", repository), ("tag", tag)])
    );
    client.post(&path, None).await.map(drop)
}
