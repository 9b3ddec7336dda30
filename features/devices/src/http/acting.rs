//! Actuators, commands to devices, and what devices are to be like.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base::{ErrorKind, EventId, OrganisationId, Page};
use edge::{
    Caller, Created, Json, NoContent, Operation, PageBody, Paging, Path, Routes, State, Undeclared,
};
use relational::Read;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Result, author};
use crate::commands::{self, Command, CommandState, Wish};
use crate::registry::{Actuator, ActuatorCommand, Step};
use crate::twin::{Side, Twin};
use crate::{COMMANDS_SEND, DEVICES_READ, DEVICES_WRITE, Devices, Error};

/// How long a device may take to answer a command when nobody says.
const TIMEOUT_SECONDS: u64 = 30;

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ActuatorBody {
    name: String,
    commands: Vec<ActuatorCommand>,
}

/// What can be changed of an actuator.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ActuatorFields {
    commands: Vec<ActuatorCommand>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
struct ActuatorView {
    name: String,
    commands: Vec<ActuatorCommand>,
    #[schemars(extend("format" = "date-time"))]
    created: String,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CommandBody {
    actuator: String,
    /// One after another: each waits for the acknowledgement of the one before.
    steps: Vec<Step>,
    /// How long the device may take to answer each.
    #[serde(default = "timeout")]
    timeout_seconds: u64,
}

pub(crate) fn timeout() -> u64 {
    TIMEOUT_SECONDS
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
struct CommandView {
    id: String,
    /// The id of the first of those that follow one another.
    chain: String,
    /// Its place among them, counted from 0.
    step: u64,
    device: String,
    actuator: String,
    command: String,
    values: BTreeMap<String, f64>,
    pause_seconds: u64,
    timeout_seconds: u64,
    /// Who wants it: a person, a key or a rule.
    author: String,
    /// The alert that set it off.
    alert: Option<String>,
    state: CommandState,
    #[schemars(extend("format" = "date-time"))]
    created: String,
    /// How often it went out.
    attempts: u64,
    #[schemars(extend("format" = "date-time"))]
    sent: Option<String>,
    #[schemars(extend("format" = "date-time"))]
    ended: Option<String>,
    /// What the device said.
    reason: Option<String>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
struct CommandsView {
    items: Vec<CommandView>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct TwinBody {
    /// A merge patch (RFC 7396) of what the device is to be like: null takes a member away.
    desired: Map<String, Value>,
    /// The version that it is a change of; another one is refused. Null: whatever it is.
    #[serde(default)]
    version: Option<u64>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
struct SideView {
    state: Map<String, Value>,
    /// How often it was changed.
    version: u64,
    #[schemars(extend("format" = "date-time"))]
    time: Option<String>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
struct TwinView {
    device: String,
    /// What it is to be like.
    desired: SideView,
    /// Who wrote that last.
    desired_by: Option<String>,
    /// What it says that it is like.
    reported: SideView,
    /// The version of `desired` that the device had seen then.
    seen_version: Option<u64>,
    /// The members of `desired` that the device does not say it has.
    delta: Map<String, Value>,
}

impl From<&Actuator> for ActuatorView {
    fn from(actuator: &Actuator) -> Self {
        let Actuator { name, commands, created } = actuator.clone();
        Self { name, commands, created: created.to_string() }
    }
}

impl From<Command> for CommandView {
    fn from(command: Command) -> Self {
        Self {
            id: command.id.to_string(),
            chain: command.chain.to_string(),
            step: command.step,
            device: command.device,
            actuator: command.actuator,
            command: command.command,
            values: command.values,
            pause_seconds: command.pause.as_secs(),
            timeout_seconds: command.timeout.as_secs(),
            author: command.author,
            alert: command.alert.map(|alert| alert.to_string()),
            state: command.state,
            created: command.created.to_string(),
            attempts: command.attempts,
            sent: command.sent.map(|sent| sent.to_string()),
            ended: command.ended.map(|ended| ended.to_string()),
            reason: command.reason,
        }
    }
}

impl From<Side> for SideView {
    fn from(side: Side) -> Self {
        let Side { state, version, time } = side;
        Self { state, version, time: time.map(|time| time.to_string()) }
    }
}

impl TwinView {
    fn new(device: String, twin: Twin) -> Self {
        let delta = twin.delta();
        Self {
            device,
            desired: twin.desired.into(),
            desired_by: twin.by,
            reported: twin.reported.into(),
            seen_version: twin.seen,
            delta,
        }
    }
}

pub(super) fn actuator_routes(routes: Routes<Devices>) -> Routes<Devices> {
    let of = |place: Undeclared| place.tag("devices");
    routes
        .add(
            of(Operation::get("/v1/actuators"))
                .id("listActuators")
                .summary("The actuators with their commands, by name.")
                .action(DEVICES_READ),
            list_actuators,
        )
        .add(
            of(Operation::post("/v1/actuators"))
                .id("createActuator")
                .summary("Adds an actuator with its commands.")
                .action(DEVICES_WRITE)
                .kinds(&[ErrorKind::AlreadyExists, ErrorKind::TooMany]),
            create_actuator,
        )
        .add(
            of(Operation::get("/v1/actuators/{name}"))
                .id("readActuator")
                .summary("One actuator.")
                .action(DEVICES_READ)
                .resource("actuator/{name}")
                .kinds(&[ErrorKind::NotFound]),
            read_actuator,
        )
        .add(
            of(Operation::put("/v1/actuators/{name}"))
                .id("replaceActuator")
                .summary("Changes the commands of an actuator. Those that a rule gives stay.")
                .action(DEVICES_WRITE)
                .resource("actuator/{name}")
                .kinds(&[ErrorKind::NotFound, ErrorKind::Conflict]),
            replace_actuator,
        )
        .add(
            of(Operation::delete("/v1/actuators/{name}"))
                .id("deleteActuator")
                .summary("Removes an actuator that no device carries and no rule uses.")
                .action(DEVICES_WRITE)
                .resource("actuator/{name}")
                .kinds(&[ErrorKind::NotFound, ErrorKind::Conflict]),
            delete_actuator,
        )
}

pub(super) fn command_routes(routes: Routes<Devices>) -> Routes<Devices> {
    let of = |place: Undeclared| place.tag("devices");
    routes
        .add(
            of(Operation::get("/v1/devices/{name}/commands"))
                .id("listCommands")
                .summary("The commands to a device and what became of them, the newest first.")
                .action(DEVICES_READ)
                .resource("device/{name}")
                .kinds(&[ErrorKind::NotFound]),
            list_commands,
        )
        .add(
            of(Operation::post("/v1/devices/{name}/commands"))
                .id("sendCommands")
                .summary("Has a device do something. The commands are on disk when this answers, and go out one after another.")
                .action(COMMANDS_SEND)
                .resource("device/{name}")
                .kinds(&[ErrorKind::NotFound, ErrorKind::TooMany]),
            send_commands,
        )
        .add(
            of(Operation::post("/v1/commands/{id}/cancel"))
                .id("cancelCommand")
                .summary("Takes a command back with those behind it. One that was sent may have been done.")
                .action(COMMANDS_SEND)
                .resource("command/{id}")
                .kinds(&[ErrorKind::NotFound, ErrorKind::Conflict]),
            cancel_command,
        )
        .add(
            of(Operation::get("/v1/devices/{name}/twin"))
                .id("readTwin")
                .summary("What a device is to be like, what it says it is like, and what differs.")
                .action(DEVICES_READ)
                .resource("device/{name}")
                .kinds(&[ErrorKind::NotFound]),
            read_twin,
        )
        .add(
            of(Operation::patch("/v1/devices/{name}/twin"))
                .id("updateTwin")
                .summary("Changes what a device is to be like (JSON merge patch); it is told when it listens.")
                .action(COMMANDS_SEND)
                .resource("device/{name}")
                .kinds(&[ErrorKind::NotFound, ErrorKind::Conflict]),
            update_twin,
        )
}

async fn list_actuators(
    State(devices): State<Devices>,
    caller: Caller,
    Paging(request): Paging,
) -> Result<PageBody<ActuatorView>> {
    let fleet = devices.fleet(caller.organisation()).await?;
    let after = request.after.clone().unwrap_or_default();
    let actuators: Vec<Arc<Actuator>> = fleet.registry(|registry| {
        let actuators = registry.actuators.values().filter(|it| it.name > after);
        actuators.take(request.limit + 1).cloned().collect()
    });
    let page = Page::of(actuators, request.limit, |actuator| actuator.name.clone());
    Ok(page.map(|actuator| ActuatorView::from(&*actuator)).into())
}

async fn create_actuator(
    State(devices): State<Devices>,
    caller: Caller,
    Json(body): Json<ActuatorBody>,
) -> Result<Created<ActuatorView>> {
    let ActuatorBody { name, commands } = body;
    Ok(Created(put(&devices, &caller, name, (commands, true)).await?))
}

async fn put(
    devices: &Devices,
    caller: &Caller,
    name: String,
    (commands, is_new): (Vec<ActuatorCommand>, bool),
) -> Result<ActuatorView> {
    let fleet = devices.fleet(caller.organisation()).await?;
    let known = if is_new { None } else { Some(fleet.actuator(&name)?) };
    let created = known.map_or_else(|| devices.house.base.clock.now(), |known| known.created);
    let actuator = Actuator { name, commands, created };
    let faults = actuator.faults(&devices.house.config);
    if !faults.is_empty() {
        return Err(Error::Invalid(faults).into());
    }
    Ok(ActuatorView::from(&*fleet.put_actuator(actuator, is_new).await?))
}

async fn read_actuator(
    State(devices): State<Devices>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<ActuatorView>> {
    let fleet = devices.fleet(caller.organisation()).await?;
    Ok(Json(ActuatorView::from(&*fleet.actuator(&name)?)))
}

async fn replace_actuator(
    State(devices): State<Devices>,
    caller: Caller,
    Path(name): Path<String>,
    Json(body): Json<ActuatorFields>,
) -> Result<Json<ActuatorView>> {
    Ok(Json(put(&devices, &caller, name, (body.commands, false)).await?))
}

async fn delete_actuator(
    State(devices): State<Devices>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<NoContent> {
    let fleet = devices.fleet(caller.organisation()).await?;
    fleet.delete_actuator(name).await?;
    Ok(NoContent)
}

async fn list_commands(
    State(devices): State<Devices>,
    caller: Caller,
    Path(name): Path<String>,
    Paging(request): Paging,
) -> Result<PageBody<CommandView>> {
    let organisation = caller.organisation();
    devices.fleet(organisation).await?.device(&name)?;
    let ask =
        async move |read: &mut Read| commands::page(read, organisation, &name, &request).await;
    let page = devices.house.needs.db.read(ask).await?;
    Ok(page.map(|command| shown(&devices, organisation, command)).into())
}

async fn send_commands(
    State(devices): State<Devices>,
    caller: Caller,
    Path(name): Path<String>,
    Json(body): Json<CommandBody>,
) -> Result<Created<CommandsView>> {
    let organisation = caller.organisation();
    let fleet = devices.fleet(organisation).await?;
    let wish = Wish {
        device: name,
        actuator: body.actuator,
        steps: body.steps,
        timeout: Duration::from_secs(body.timeout_seconds),
        author: author(&caller),
        alert: None,
    };
    let chain = fleet.command(wish).await?;
    let items = chain.into_iter().map(|command| shown(&devices, organisation, command)).collect();
    Ok(Created(CommandsView { items }))
}

/// A command with who sent it as people know them.
fn shown(devices: &Devices, organisation: OrganisationId, mut command: Command) -> CommandView {
    command.author = devices.house.name_of(organisation, command.author);
    command.into()
}

async fn cancel_command(
    State(devices): State<Devices>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<CommandView>> {
    let fleet = devices.fleet(caller.organisation()).await?;
    let id: EventId = id.parse().map_err(|_| Error::NotFound("command", id.clone()))?;
    let command = fleet.cancel_command(id).await?;
    Ok(Json(shown(&devices, caller.organisation(), command)))
}

async fn read_twin(
    State(devices): State<Devices>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Json<TwinView>> {
    let fleet = devices.fleet(caller.organisation()).await?;
    let twin = fleet.twin(&name).await?;
    Ok(Json(desired(&devices, &caller, name, twin)))
}

/// A twin with who wants it so as people know them.
fn desired(devices: &Devices, caller: &Caller, name: String, mut twin: Twin) -> TwinView {
    let organisation = caller.organisation();
    twin.by = twin.by.map(|by| devices.house.name_of(organisation, by));
    TwinView::new(name, twin)
}

async fn update_twin(
    State(devices): State<Devices>,
    caller: Caller,
    Path(name): Path<String>,
    Json(body): Json<TwinBody>,
) -> Result<Json<TwinView>> {
    let fleet = devices.fleet(caller.organisation()).await?;
    let change = (body.desired, body.version);
    let twin = fleet.desire(&name, change, &author(&caller)).await?;
    Ok(Json(desired(&devices, &caller, name, twin)))
}
