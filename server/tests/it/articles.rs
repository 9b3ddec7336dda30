//! The RealWorld (Conduit) API 2.0.0, line by line as its specification has it, on every database.

use serde_json::{Value, json};
use testkit::{Http, Launch, MariaDb, Postgres, Reply, Stack};

use crate::launch;

/// A client of the Conduit API, as somebody or as nobody.
#[derive(Clone)]
struct Conduit {
    http: Http,
}

impl Conduit {
    fn of(stack: &Stack) -> Self {
        Self { http: stack.stranger() }
    }

    fn with(&self, token: &str) -> Self {
        Self { http: self.http.clone().header("authorization", &format!("Token {token}")) }
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Reply {
        let text = body.map(Value::to_string);
        let body = text.as_ref().map(|text| ("application/json", text.as_bytes()));
        self.http.send(method, &format!("/conduit/api{path}"), body).unwrap()
    }

    /// The body of an answer that must have this status.
    #[track_caller]
    #[expect(clippy::needless_pass_by_value, reason = "each caller makes the body for it")]
    fn expect(&self, status: u16, method: &str, path: &str, body: Option<Value>) -> Value {
        let reply = self.ask(method, path, body.as_ref());
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        assert_eq!(reply.status, status, "{method} {path} {body:?}: {text}");
        if reply.body.is_empty() {
            return Value::Null;
        }
        assert!(reply.content_type.starts_with("application/json"), "{}", reply.content_type);
        serde_json::from_str(&text).unwrap()
    }

    #[track_caller]
    fn get(&self, path: &str) -> Value {
        self.expect(200, "GET", path, None)
    }

    /// Refused with this text about this field.
    #[track_caller]
    fn refused(&self, status: u16, asked: (&str, &str, Option<Value>), error: (&str, &str)) {
        let (method, path, body) = asked;
        let answer = self.expect(status, method, path, body);
        assert_eq!(answer["errors"][error.0][0], error.1, "{method} {path}: {answer}");
    }

    fn register(&self, name: &str) -> (Self, Value) {
        let user = json!({"user": {
            "username": name, "email": format!("{name}@example.com"), "password": "password123",
        }});
        let user = self.expect(201, "POST", "/users", Some(user))["user"].clone();
        (self.with(user["token"].as_str().unwrap()), user)
    }

    #[track_caller]
    fn publish(&self, title: &str, tags: &[&str]) -> Value {
        let article = json!({"article": {
            "title": title, "description": format!("about {title}"), "body": format!("# {title}"),
            "tagList": tags,
        }});
        self.expect(201, "POST", "/articles", Some(article))["article"].clone()
    }
}

const BLANK: &str = "can't be blank";
const TAKEN: &str = "has already been taken";

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("no {field} in {value}"))
}

/// `2026-11-21T18:03:39.123Z`.
fn is_moment(text: &str) -> bool {
    let form = "dddd-dd-ddTdd:dd:dd.dddZ";
    text.len() == form.len()
        && text.chars().zip(form.chars()).all(|(letter, form)| match form {
            'd' => letter.is_ascii_digit(),
            form => letter == form,
        })
}

fn slugs(list: &Value) -> Vec<&str> {
    list["articles"].as_array().unwrap().iter().map(|article| text(article, "slug")).collect()
}

fn users(all: &Conduit) {
    for blank in ["username", "email", "password"] {
        let mut user =
            json!({"username": "blank", "email": "blank@example.com", "password": "password123"});
        user[blank] = json!("");
        let body = Some(json!({ "user": user }));
        all.refused(422, ("POST", "/users", body), (blank, BLANK));
    }
    let (mina, user) = all.register("mina");
    assert_eq!((&user["bio"], &user["image"]), (&Value::Null, &Value::Null));
    assert_eq!((text(&user, "username"), text(&user, "email")), ("mina", "mina@example.com"));
    assert!(!text(&user, "token").is_empty());

    let again = |username: &str, email: &str| {
        Some(json!({"user": {"username": username, "email": email, "password": "password123"}}))
    };
    let body = again("mina", "another@example.com");
    all.refused(409, ("POST", "/users", body), ("username", TAKEN));
    let body = again("MINA", "another@example.com");
    all.refused(409, ("POST", "/users", body), ("username", TAKEN));
    let body = again("another", "Mina@example.com");
    all.refused(409, ("POST", "/users", body), ("email", TAKEN));
    let body = again("another", "no address");
    all.expect(422, "POST", "/users", body);
    // What was refused left nothing behind.
    all.register("another");

    let log_in = |email: &str, password: &str| {
        ("POST", "/users/login", Some(json!({"user": {"email": email, "password": password}})))
    };
    all.refused(422, log_in("", "password123"), ("email", BLANK));
    all.refused(422, log_in("mina@example.com", ""), ("password", BLANK));
    all.refused(401, log_in("mina@example.com", "wrong password"), ("credentials", "invalid"));
    all.refused(401, log_in("nobody@example.com", "password123"), ("credentials", "invalid"));
    let (method, path, body) = log_in("mina@example.com", "password123");
    let user = all.expect(200, method, path, body)["user"].clone();
    assert_ne!(text(&user, "token"), "");
    let second = all.with(text(&user, "token"));
    assert_eq!(second.get("/user")["user"]["username"], "mina");

    for (method, body) in [("GET", None), ("PUT", Some(json!({"user": {"bio": "x"}})))] {
        all.refused(401, (method, "/user", body.clone()), ("token", "is missing"));
        all.with("madang_no_token").refused(401, (method, "/user", body), ("token", "is missing"));
    }
    own_account(all, &mina, &second);
}

fn own_account(all: &Conduit, mina: &Conduit, second: &Conduit) {
    let change = |field: &str, value: Value| {
        let mut user = json!({});
        user[field] = value;
        Some(json!({ "user": user }))
    };
    for field in ["bio", "image"] {
        let there = if field == "image" { "https://example.com/a.png" } else { "a text" };
        for empty in [json!(""), Value::Null] {
            let user = mina.expect(200, "PUT", "/user", change(field, json!(there)));
            assert_eq!(user["user"][field], there);
            assert_eq!(mina.get("/user")["user"][field], there);
            let user = mina.expect(200, "PUT", "/user", change(field, empty));
            assert_eq!(user["user"][field], Value::Null);
            assert_eq!(mina.get("/user")["user"][field], Value::Null);
        }
    }
    mina.expect(422, "PUT", "/user", change("image", json!("javascript:alert(1)")));
    mina.expect(422, "PUT", "/user", Some(json!({"user": {}})));
    for field in ["username", "email", "password"] {
        for empty in [json!(""), Value::Null] {
            mina.refused(422, ("PUT", "/user", change(field, empty)), (field, BLANK));
        }
    }
    mina.expect(422, "PUT", "/user", change("password", json!("short7c")));
    mina.refused(409, ("PUT", "/user", change("username", json!("another"))), ("username", TAKEN));
    let body = change("email", json!("another@example.com"));
    mina.refused(409, ("PUT", "/user", body), ("email", TAKEN));

    // A new name and a new address: the answer's token works, and others see the new name.
    let body = json!({"user": {"username": "minseo", "email": "minseo@example.com"}});
    let user = mina.expect(200, "PUT", "/user", Some(body))["user"].clone();
    assert_eq!((text(&user, "username"), text(&user, "email")), ("minseo", "minseo@example.com"));
    let renamed = all.with(text(&user, "token"));
    assert_eq!(renamed.get("/user")["user"]["email"], "minseo@example.com");
    all.expect(404, "GET", "/profiles/mina", None);
    all.get("/profiles/minseo");

    // A new password ends the other sessions and not this one.
    let long = "a".repeat(64);
    for password in ["bonjour1", &long] {
        renamed.expect(200, "PUT", "/user", change("password", json!(password)));
    }
    renamed.get("/user");
    second.refused(401, ("GET", "/user", None), ("token", "is missing"));
    let body = json!({"user": {"email": "minseo@example.com", "password": long}});
    all.expect(200, "POST", "/users/login", Some(body));
    let body = json!({"user": {"email": "mina@example.com", "password": "password123"}});
    all.expect(401, "POST", "/users/login", Some(body));
}

fn profiles(all: &Conduit) {
    let (reader, _) = all.register("reader");
    let (_, _) = all.register("writer");
    let profile = all.get("/profiles/writer")["profile"].clone();
    let wanted = json!({"username": "writer", "bio": null, "image": null, "following": false});
    assert_eq!(profile, wanted);
    for method in ["GET", "POST", "DELETE"] {
        let path = if method == "GET" { "/profiles/nobody" } else { "/profiles/nobody/follow" };
        reader.refused(404, (method, path, None), ("profile", "not found"));
    }
    for method in ["POST", "DELETE"] {
        let asked = (method, "/profiles/writer/follow", None);
        all.refused(401, asked, ("token", "is missing"));
    }
    // Twice is as good as once.
    for (method, follows) in [("POST", true), ("POST", true), ("DELETE", false), ("DELETE", false)]
    {
        let answer = reader.expect(200, method, "/profiles/writer/follow", None);
        assert_eq!(answer["profile"]["following"], follows);
        assert_eq!(reader.get("/profiles/writer")["profile"]["following"], follows);
        assert_eq!(all.get("/profiles/writer")["profile"]["following"], false);
    }
}

fn articles(all: &Conduit) {
    let (author, _) = all.register("author");
    let (other, _) = all.register("other");
    let made = author.publish("마당 넓은 집", &["zeta", "alpha", "zeta"]);
    assert_eq!(made["tagList"], json!(["zeta", "alpha"]), "as given, each once");
    assert_eq!((&made["favorited"], &made["favoritesCount"]), (&json!(false), &json!(0)));
    assert_eq!(made["author"]["username"], "author");
    assert!(is_moment(text(&made, "createdAt")) && is_moment(text(&made, "updatedAt")), "{made}");
    let path = format!("/articles/{}", encoded(text(&made, "slug")));
    assert_eq!(all.get(&path)["article"], made);

    for field in ["title", "description", "body"] {
        let mut article = json!({"title": "t", "description": "d", "body": "b"});
        article[field] = json!(" ");
        let body = Some(json!({ "article": article }));
        author.refused(422, ("POST", "/articles", body), (field, BLANK));
        article.as_object_mut().unwrap().remove(field);
        let body = Some(json!({ "article": article }));
        author.refused(422, ("POST", "/articles", body), (field, BLANK));
        for empty in [json!(""), Value::Null] {
            let mut change = json!({});
            change[field] = empty;
            let body = Some(json!({ "article": change }));
            author.refused(422, ("PUT", &path, body), (field, BLANK));
        }
    }
    let change = |article: Value| Some(json!({ "article": article }));
    author.expect(422, "PUT", &path, change(json!({"tagList": null})));
    let changed = author.expect(200, "PUT", &path, change(json!({"body": "anew"})));
    let changed = &changed["article"];
    for field in ["slug", "title", "description", "tagList", "createdAt"] {
        assert_eq!(changed[field], made[field], "{field}");
    }
    assert_eq!(changed["body"], "anew");
    assert_ne!(changed["updatedAt"], made["updatedAt"]);
    assert_eq!(all.get(&path)["article"], *changed);
    let cleared = author.expect(200, "PUT", &path, change(json!({"tagList": []})));
    assert_eq!(cleared["article"]["tagList"], json!([]));
    assert_eq!(all.get(&path)["article"]["tagList"], json!([]));

    // A new title makes a new slug; the same title twice makes two.
    let again = author.publish("마당 넓은 집", &[]);
    assert_ne!(again["slug"], made["slug"]);
    let renamed = author.expect(200, "PUT", &path, change(json!({"title": "A new title"})));
    let renamed = format!("/articles/{}", text(&renamed["article"], "slug"));
    all.refused(404, ("GET", &path, None), ("article", "not found"));
    assert_eq!(all.get(&renamed)["article"]["title"], "A new title");

    let body = change(json!({"body": "mine now"}));
    other.refused(403, ("PUT", &renamed, body.clone()), ("article", "forbidden"));
    other.refused(403, ("DELETE", &renamed, None), ("article", "forbidden"));
    for (method, body) in [("PUT", body), ("DELETE", None)] {
        all.refused(401, (method, &renamed, body.clone()), ("token", "is missing"));
        let nowhere = "/articles/no-such-article";
        other.refused(404, (method, nowhere, body), ("article", "not found"));
    }
    all.refused(404, ("GET", "/articles/no-such-article", None), ("article", "not found"));
    let body = change(json!({"title": "t", "description": "d", "body": "b"}));
    all.refused(401, ("POST", "/articles", body), ("token", "is missing"));
    assert_eq!(author.expect(204, "DELETE", &renamed, None), Value::Null);
    all.refused(404, ("GET", &renamed, None), ("article", "not found"));
}

fn lists(all: &Conduit) {
    let before = all.get("/articles")["articlesCount"].as_u64().unwrap();
    let (author, _) = all.register("lister");
    let (reader, _) = all.register("listed");
    let made: Vec<Value> = (1..=25)
        .map(|number| {
            let tags: &[&str] = if number % 5 == 0 { &["fives", "all"] } else { &["all"] };
            author.publish(&format!("List {number}"), tags)
        })
        .collect();
    let newest: Vec<&str> = made.iter().rev().map(|article| text(article, "slug")).collect();
    let list = all.get("/articles");
    assert_eq!(list["articlesCount"], before + 25);
    assert_eq!(slugs(&list), newest[..20]);
    for article in list["articles"].as_array().unwrap() {
        assert!(article.get("body").is_none(), "{article}");
        assert!(article["favoritesCount"].is_u64() && article["favorited"] == false);
    }
    let page = all.get("/articles?author=lister&limit=7&offset=14");
    assert_eq!((slugs(&page), &page["articlesCount"]), (newest[14..21].to_vec(), &json!(25)));
    let after = all.get("/articles?author=lister&offset=30");
    assert_eq!((slugs(&after).len(), &after["articlesCount"]), (0, &json!(25)));
    let fives = all.get("/articles?tag=fives");
    assert_eq!((slugs(&fives).len(), &fives["articlesCount"]), (5, &json!(5)));
    assert_eq!(all.get("/articles?tag=fives&author=nobody")["articlesCount"], 0);
    assert_eq!(all.get("/articles?tag=fives&author=lister")["articlesCount"], 5);
    assert_eq!(all.get("/articles?author=nobody")["articlesCount"], 0);
    for wrong in ["limit=0", "limit=-1", "limit=x", "offset=-1"] {
        all.expect(422, "GET", &format!("/articles?{wrong}"), None);
    }
    assert_eq!(
        slugs(&all.get("/articles?limit=1000000")).len(),
        25 + usize::try_from(before).unwrap()
    );

    let tags = all.get("/tags");
    let tags = tags["tags"].as_array().unwrap();
    assert!(tags.contains(&json!("fives")) && tags.contains(&json!("all")), "{tags:?}");
    for article in &made[4..5] {
        let path = format!("/articles/{}", text(article, "slug"));
        author.expect(204, "DELETE", &path, None);
    }
    assert_eq!(all.get("/articles?tag=fives")["articlesCount"], 4);
    assert_eq!(all.get("/articles?author=lister")["articlesCount"], 24);
    feeds(all, &author, &reader, &newest[..20]);
}

fn feeds(all: &Conduit, author: &Conduit, reader: &Conduit, newest: &[&str]) {
    all.refused(401, ("GET", "/articles/feed", None), ("token", "is missing"));
    let empty = reader.get("/articles/feed");
    assert_eq!((slugs(&empty).len(), &empty["articlesCount"]), (0, &json!(0)));
    reader.expect(200, "POST", "/profiles/lister/follow", None);
    let feed = reader.get("/articles/feed");
    assert_eq!((slugs(&feed), &feed["articlesCount"]), (newest.to_vec(), &json!(24)));
    assert!(
        feed["articles"].as_array().unwrap().iter().all(|it| it["author"]["following"] == true)
    );
    let part = reader.get("/articles/feed?limit=2&offset=1");
    assert_eq!((slugs(&part), &part["articlesCount"]), (newest[1..3].to_vec(), &json!(24)));
    assert_eq!(author.get("/articles/feed")["articlesCount"], 0);
    reader.expect(200, "DELETE", "/profiles/lister/follow", None);
    assert_eq!(reader.get("/articles/feed")["articlesCount"], 0);
}

fn favourites(all: &Conduit) {
    let (author, _) = all.register("favoured");
    let (fan, _) = all.register("fan");
    let (second, _) = all.register("fan2");
    let article = author.publish("To be liked", &["liked"]);
    let path = format!("/articles/{}", text(&article, "slug"));
    let favourite = format!("{path}/favorite");
    for method in ["POST", "DELETE"] {
        all.refused(401, (method, &favourite, None), ("token", "is missing"));
        let nowhere = "/articles/no-such-article/favorite";
        fan.refused(404, (method, nowhere, None), ("article", "not found"));
    }
    for (who, count) in [(&fan, 1), (&fan, 1), (&second, 2)] {
        let liked = who.expect(200, "POST", &favourite, None)["article"].clone();
        assert_eq!((&liked["favorited"], &liked["favoritesCount"]), (&json!(true), &json!(count)));
        assert_eq!(who.get(&path)["article"], liked);
    }
    let shown = all.get(&path)["article"].clone();
    assert_eq!((&shown["favorited"], &shown["favoritesCount"]), (&json!(false), &json!(2)));
    assert_eq!(shown["updatedAt"], article["updatedAt"], "nobody wrote it anew");
    let list = all.get("/articles?favorited=fan");
    assert_eq!((slugs(&list).len(), &list["articlesCount"]), (1, &json!(1)));
    assert_eq!(fan.get("/articles?favorited=fan2")["articles"][0]["favorited"], true);
    assert_eq!(author.get("/articles?favorited=fan")["articles"][0]["favorited"], false);
    for (who, count) in [(&fan, 1), (&fan, 1), (&second, 0)] {
        let liked = who.expect(200, "DELETE", &favourite, None)["article"].clone();
        assert_eq!((&liked["favorited"], &liked["favoritesCount"]), (&json!(false), &json!(count)));
    }
    assert_eq!(all.get("/articles?favorited=fan")["articlesCount"], 0);
    fan.expect(200, "POST", &favourite, None);
    author.expect(204, "DELETE", &path, None);
    assert_eq!(all.get("/articles?favorited=fan")["articlesCount"], 0);
}

fn comments(all: &Conduit) {
    let (author, _) = all.register("commented");
    let (other, _) = all.register("commenter");
    let article = author.publish("To be discussed", &[]);
    let path = format!("/articles/{}/comments", text(&article, "slug"));
    let body = |text: &str| Some(json!({"comment": {"body": text}}));
    all.refused(401, ("POST", &path, body("x")), ("token", "is missing"));
    other.refused(422, ("POST", &path, body("")), ("body", BLANK));
    let nowhere = "/articles/no-such-article/comments";
    other.refused(404, ("POST", nowhere, body("x")), ("article", "not found"));
    all.refused(404, ("GET", nowhere, None), ("article", "not found"));

    let first = other.expect(201, "POST", &path, body("First"))["comment"].clone();
    assert!(first["id"].is_i64() || first["id"].is_u64(), "{first}");
    assert!(first["id"].as_u64().unwrap() < 1 << 53, "a browser holds it exactly");
    assert_eq!(
        (&first["body"], &first["author"]["username"]),
        (&json!("First"), &json!("commenter"))
    );
    assert!(is_moment(text(&first, "createdAt")) && is_moment(text(&first, "updatedAt")));
    let second = other.expect(201, "POST", &path, body("Second"))["comment"].clone();
    assert_eq!(all.get(&path)["comments"], json!([second, first]));
    author.expect(200, "POST", "/profiles/commenter/follow", None);
    assert_eq!(author.get(&path)["comments"][0]["author"]["following"], true);

    let of = |id: &Value| format!("{path}/{id}");
    all.refused(401, ("DELETE", &of(&first["id"]), None), ("token", "is missing"));
    author.refused(403, ("DELETE", &of(&first["id"]), None), ("comment", "forbidden"));
    other.refused(404, ("DELETE", &of(&json!(99_999)), None), ("comment", "not found"));
    let elsewhere = format!("{nowhere}/{}", first["id"]);
    other.refused(404, ("DELETE", &elsewhere, None), ("article", "not found"));
    other.expect(204, "DELETE", &of(&first["id"]), None);
    assert_eq!(all.get(&path)["comments"], json!([second]));
    let path = format!("/articles/{}", text(&article, "slug"));
    author.expect(204, "DELETE", &path, None);
    all.expect(404, "GET", &format!("{path}/comments"), None);
}

/// Bodies that are none, in the shape of this API.
fn malformed(all: &Conduit) {
    let (somebody, _) = all.register("careless");
    let paths =
        [("POST", "/users"), ("POST", "/users/login"), ("PUT", "/user"), ("POST", "/articles")];
    for (method, path) in paths {
        for (body, status) in [("{", 400), ("[]", 422), ("{\"x\": 1}", 422)] {
            let body = Some(("application/json", body.as_bytes()));
            let reply = somebody.http.send(method, &format!("/conduit/api{path}"), body).unwrap();
            assert_eq!(reply.status, status, "{method} {path}");
            assert!(reply.json().unwrap()["errors"].is_object(), "{method} {path}");
        }
    }
    let body = Some(json!({"article": {"title": 5, "description": "d", "body": "b"}}));
    let answer = somebody.expect(422, "POST", "/articles", body);
    assert!(answer["errors"]["title"][0].is_string(), "{answer}");
}

fn encoded(slug: &str) -> String {
    slug.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

fn conforms(launch: &Launch) {
    let stack = launch.start().unwrap();
    let all = Conduit::of(&stack);
    for part in [users, profiles, articles, lists, favourites, comments, malformed] {
        part(&all);
    }
    let list = all.get("/articles");
    stack.terminate().unwrap();
    let stack = launch.start().unwrap();
    assert_eq!(Conduit::of(&stack).get("/articles"), list, "the same after a restart");
}

#[test]
fn the_conduit_api_is_as_its_specification_says() {
    let folder = tempfile::tempdir().unwrap();
    conforms(&launch(&folder));
}

#[test]
fn the_conduit_api_is_the_same_on_postgresql() {
    let folder = tempfile::tempdir().unwrap();
    let postgres = Postgres::start().unwrap();
    let url = postgres.database("conduit").unwrap();
    conforms(&launch(&folder).environment("MADANG__RELATIONAL__URL", &url));
}

#[test]
fn the_conduit_api_is_the_same_on_mariadb() {
    let folder = tempfile::tempdir().unwrap();
    let mariadb = MariaDb::start().unwrap();
    let url = mariadb.database("conduit").unwrap();
    conforms(&launch(&folder).environment("MADANG__RELATIONAL__URL", &url));
}

#[test]
fn strangers_make_accounts_only_where_the_configuration_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let all = Conduit::of(&stack);
    // As a proxy on this machine hands on what came from elsewhere.
    let elsewhere = Conduit { http: stack.stranger().header("x-forwarded-for", "192.0.2.7") };
    let user =
        json!({"user": {"username": "far", "email": "far@example.com", "password": "password123"}});
    elsewhere.expect(403, "POST", "/users", Some(user.clone()));
    let origin = |origin: &str| Conduit { http: stack.stranger().header("origin", origin) };
    for page in ["https://front.example", "http://127.0.0.1.example", "null", "://"] {
        origin(page).expect(403, "POST", "/users", Some(user.clone()));
    }
    let near = json!({"user": {"username": "near", "email": "near@example.com", "password": "password123"}});
    origin("http://localhost:3000").expect(201, "POST", "/users", Some(near));
    all.expect(201, "POST", "/users", Some(user.clone()));
    stack.terminate().unwrap();
    let closed = launch(&folder).environment("MADANG__ARTICLES__SIGN_UP", "closed");
    let stack = closed.start().unwrap();
    let mut second = user;
    second["user"]["username"] = json!("second");
    Conduit::of(&stack).expect(403, "POST", "/users", Some(second.clone()));
    stack.terminate().unwrap();
    let stack = launch(&folder).environment("MADANG__ARTICLES__SIGN_UP", "open").start().unwrap();
    let elsewhere = Conduit { http: stack.stranger().header("x-forwarded-for", "192.0.2.7") };
    second["user"]["email"] = json!("second@example.com");
    elsewhere.expect(201, "POST", "/users", Some(second));
}

#[test]
fn a_user_of_articles_reaches_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let (_, user) = Conduit::of(&stack).register("curious");
    let http = stack.stranger().bearer(text(&user, "token"));
    for path in ["/v1/devices", "/v1/rules", "/v1/keys", "/v1/audit", "/v1/messages", "/v1/jobs"] {
        assert_eq!(http.get(path).unwrap().status, 403, "{path}");
    }
    assert_eq!(http.post("/v1/sql", &json!({"sql": "SELECT 1"})).unwrap().status, 403);
    let session = http.get("/v1/session").unwrap().ok().unwrap();
    assert_eq!(session["actions"], json!(["articles.write"]));
}

#[test]
fn a_front_end_of_another_origin_asks_without_cookies() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let all = Conduit::of(&stack);
    let (author, _) = all.register("faraway");
    let page = Conduit { http: author.http.header("origin", "https://front.example") };
    let header = |reply: &Reply, name: &str| {
        let found = reply.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    };
    for (method, path, status) in
        [("GET", "/articles", 200), ("GET", "/user", 200), ("GET", "/articles/none", 404)]
    {
        let reply = page.ask(method, path, None);
        assert_eq!(reply.status, status, "{path}");
        assert_eq!(header(&reply, "access-control-allow-origin"), "*", "{path}");
        assert_eq!(header(&reply, "access-control-allow-credentials"), "", "{path}");
    }
    let asks = stack.stranger().header("origin", "https://front.example");
    let asks = asks.header("access-control-request-method", "PUT");
    let reply = asks.send("OPTIONS", "/conduit/api/user", None).unwrap();
    assert_eq!(reply.status, 204);
    assert!(header(&reply, "access-control-allow-methods").contains("PUT"));
    assert!(header(&reply, "access-control-allow-headers").contains("authorization"));
    let elsewhere = asks.send("OPTIONS", "/v1/articles", None).unwrap();
    assert_eq!(header(&elsewhere, "access-control-allow-origin"), "", "only where it is meant");
}
