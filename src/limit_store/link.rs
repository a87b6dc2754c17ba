//! One connection to the store, shared by all requests: they ask one after the other without waiting for each other's answers.
//! The scripts are known to the server by their digest; where it has forgotten one, the text is sent again.
//! Not here: how long anybody waits, and when to connect again.

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, ServerErrorKind, cmd};

use super::fault::Fault;
use super::rule::{Answer, Ask};
use super::settings::Settings;

/// Decides limits.
pub(super) const DECIDE: &str = include_str!("../../conf/redis/decide.lua");
/// Says that a gateway is there.
const BEAT: &str = include_str!("../../conf/redis/beat.lua");

/// Questions that wait to be written; more wait in their own requests.
const WRITE_QUEUE: usize = 1_024;

/// A connection that has been tried.
pub(super) struct Link {
    connection: MultiplexedConnection,
    decide: Script,
    beat: Script,
}

/// A script, and by what digest the server knows it.
struct Script {
    text: &'static str,
    digest: String,
}

/// Why limits are asked about.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    Decide,
    Look,
}

/// Who says that it is there.
pub(super) struct Presence<'a> {
    pub id: &'a str,
    /// The server's latest time that it has seen.
    pub seen: u64,
    pub known_for_us: u64,
}

/// What the server says about the deployment. Microseconds of its clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Beat {
    pub now: u64,
    pub gateways: u32,
    pub rank: u32,
    pub lost: u64,
}

impl Link {
    /// Connects to the configured server, or to a node of its cluster, and makes the scripts known.
    pub async fn connect(settings: &Settings, node: Option<&str>) -> Result<Self, Fault> {
        let client = settings.client(node).map_err(|error| Fault::of(&error))?;
        // Who asks sets the bound.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(WRITE_QUEUE);
        let connected = client.get_multiplexed_async_connection_with_config(&config).await;
        let mut connection = connected.map_err(|error| Fault::of(&error))?;
        let decide = Script::load(DECIDE, &mut connection).await?;
        let beat = Script::load(BEAT, &mut connection).await?;
        Ok(Self { connection, decide, beat })
    }

    /// Asks about all limits of one request.
    pub async fn ask(&self, asks: &[Ask], purpose: Purpose) -> Result<Answer, Fault> {
        let word = match purpose {
            Purpose::Decide => "decide",
            Purpose::Look => "look",
        };
        let fill = |cmd: &mut Cmd| {
            cmd.arg(asks.len());
            asks.iter().for_each(|ask| {
                cmd.arg(&ask.key);
            });
            cmd.arg(word);
            asks.iter().for_each(|ask| {
                cmd.arg(ask.packed().as_slice());
            });
        };
        let numbers: Vec<i64> = self.run(&self.decide, fill).await?;
        Answer::read(&numbers, asks.len()).ok_or_else(|| Fault::answer("the script's answer makes no sense"))
    }

    /// Says that this gateway is there.
    pub async fn beat(&self, settings: &Settings, presence: &Presence<'_>) -> Result<Beat, Fault> {
        let fill = |cmd: &mut Cmd| {
            cmd.arg(2).arg(format!("{}gateways", settings.prefix())).arg(format!("{}state", settings.prefix()));
            cmd.arg(presence.id).arg(presence.seen).arg(presence.known_for_us);
        };
        let (now, gateways, rank, lost) = self.run(&self.beat, fill).await?;
        Ok(Beat { now, gateways, rank, lost })
    }

    /// Deletes keys; says how many there were.
    pub async fn forget(&self, keys: &[String]) -> Result<u64, Fault> {
        if keys.is_empty() {
            return Ok(0);
        }
        self.query(cmd("DEL").arg(keys)).await.map_err(|error| Fault::of(&error))
    }

    async fn run<T: FromRedisValue>(&self, script: &Script, fill: impl Fn(&mut Cmd)) -> Result<T, Fault> {
        let mut known = cmd("EVALSHA");
        known.arg(&script.digest);
        fill(&mut known);
        let answer = match self.query(&known).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                let mut whole = cmd("EVAL");
                whole.arg(script.text);
                fill(&mut whole);
                self.query(&whole).await
            }
            answer => answer,
        };
        answer.map_err(|error| Fault::of(&error))
    }

    async fn query<T: FromRedisValue>(&self, cmd: &Cmd) -> Result<T, redis::RedisError> {
        cmd.query_async(&mut self.connection.clone()).await
    }
}

impl Script {
    async fn load(text: &'static str, connection: &mut MultiplexedConnection) -> Result<Self, Fault> {
        let loaded = cmd("SCRIPT").arg("LOAD").arg(text).query_async(connection).await;
        Ok(Self { text, digest: loaded.map_err(|error| Fault::of(&error))? })
    }
}
