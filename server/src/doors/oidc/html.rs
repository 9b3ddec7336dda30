//! What the pages of a log-in to another tool say, in Korean and English. Every text of others is escaped.

use std::fmt::Write;
use std::sync::LazyLock;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use edge::escaped;
use sha2::{Digest, Sha256};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    Korean,
    English,
}

/// What is said in place of a form, or above one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Note {
    NoTool,
    NoPlace,
    Old,
    Foreign,
    Wrong,
    TooMany,
    Elsewhere,
    Gone,
}

/// A page on its way to a browser.
pub(super) struct Page {
    language: Language,
    head: String,
    body: String,
    /// Whether a form of it may lead to HTTP on somebody's own machine.
    leads_to_http: bool,
}

const STYLE: &str = "\
:root{color-scheme:light dark;font:16px/1.5 system-ui,'Apple SD Gothic Neo','Noto Sans KR','Noto Sans CJK KR','Malgun Gothic',sans-serif}\
body{margin:0;min-height:100vh;display:grid;place-items:center;background:light-dark(#f4f3ef,#131716);color:light-dark(#1c2220,#e7ece9)}\
main{box-sizing:border-box;width:min(26rem,100vw);padding:2rem;background:light-dark(#fff,#1b201f);border-radius:8px}\
:lang(ko){word-break:keep-all;overflow-wrap:break-word}\
h1{font-size:1.25rem;margin:0 0 1rem;overflow-wrap:anywhere}\
p,ul{margin:0 0 1rem;overflow-wrap:anywhere}ul{padding-left:1.25rem}\
label{display:block;margin:0 0 .75rem}\
input{display:block;box-sizing:border-box;width:100%;font:inherit;padding:.5rem;margin-top:.25rem;border:1px solid light-dark(#8b897f,#6e7975);border-radius:6px;background:inherit;color:inherit}\
button{font:inherit;padding:.5rem 1rem;border-radius:6px;border:1px solid light-dark(#8b897f,#6e7975);background:none;color:inherit;cursor:pointer;margin-right:.5rem}\
button.first{background:light-dark(#0b6b5c,#5ccbb5);border-color:light-dark(#0b6b5c,#5ccbb5);color:light-dark(#fff,#06231d)}\
a{color:light-dark(#0b6b5c,#5ccbb5)}\
.faint{color:light-dark(#57605c,#a3b0ab);font-size:.875rem}form+.faint{margin:1rem 0 0}\
.wrong{color:light-dark(#a8231b,#ff9486)}";

static STYLE_HASH: LazyLock<String> =
    LazyLock::new(|| STANDARD.encode(Sha256::digest(STYLE.as_bytes())));

impl Language {
    /// The one that a browser names first; Korean where it names neither.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let given = headers.get(header::ACCEPT_LANGUAGE).and_then(|given| given.to_str().ok());
        let mut named = given.unwrap_or_default().split(',').filter_map(|one| {
            let name = one.split(';').next()?.trim().split('-').next()?.to_ascii_lowercase();
            match &*name {
                "ko" => Some(Self::Korean),
                "en" => Some(Self::English),
                _ => None,
            }
        });
        named.next().unwrap_or(Self::Korean)
    }

    /// The text in this language.
    fn say<'a>(self, korean: &'a str, english: &'a str) -> &'a str {
        match self {
            Self::Korean => korean,
            Self::English => english,
        }
    }
}

impl Note {
    fn text(self, language: Language) -> &'static str {
        let (korean, english) = match self {
            Self::NoTool => (
                "이 링크를 보낸 도구를 알 수 없습니다. 등록되지 않았거나 삭제되었습니다.",
                "The tool of this link is not known here, or is not any more.",
            ),
            Self::NoPlace => (
                "도구가 등록하지 않은 주소로 돌아가려 합니다. 아무것도 보내지 않았습니다.",
                "The link leads back to a place that the tool did not name. Nothing was sent there.",
            ),
            Self::Old => (
                "링크가 오래되었거나 올바르지 않습니다. 도구에서 다시 시작하세요.",
                "The link is too old or not right. Start again at the tool.",
            ),
            Self::Foreign => (
                "다른 사이트에서 온 요청이어서 거절했습니다.",
                "The request came from another site and was refused.",
            ),
            Self::Wrong => ("입력한 내용이 올바르지 않습니다.", "That was not right."),
            Self::TooMany => (
                "시도가 너무 많습니다. 잠시 후 다시 시도하세요.",
                "There were too many attempts. Try again later.",
            ),
            Self::Elsewhere => (
                "로그인한 계정은 이 도구를 쓰는 조직에 속하지 않습니다. 다른 계정으로 로그인하세요.",
                "The account that is signed in is not of the organisation of this tool. Sign in with another.",
            ),
            Self::Gone => ("로그아웃했습니다.", "You are signed out."),
        };
        language.say(korean, english)
    }
}

impl Page {
    pub(super) fn new(language: Language) -> Self {
        Self { language, head: String::new(), body: String::new(), leads_to_http: false }
    }

    /// Goes on by itself, or by a click.
    pub(super) fn onward(mut self, next: &str) -> Self {
        let next = escaped(next);
        write!(self.head, "<meta http-equiv=\"refresh\" content=\"0; url={next}\">").expect(STRING);
        let text = self.language.say("계속", "Continue");
        write!(self.body, "<p><a data-test=\"oidc-onward\" href=\"{next}\">{text}</a></p>")
            .expect(STRING);
        self
    }

    /// Only a sentence.
    pub(super) fn note(mut self, note: Note) -> Self {
        let text = note.text(self.language);
        write!(self.body, "<p data-test=\"oidc-note\">{text}</p>").expect(STRING);
        self
    }

    pub(super) fn sign_in(
        mut self,
        tool: &str,
        (request, again): (&str, &str),
        note: Option<Note>,
    ) -> Self {
        let say = |korean, english| self.language.say(korean, english);
        let (email, password) = (say("이메일", "E-mail"), say("비밀번호", "Password"));
        let fields = format!(
            "<label>{email}<input data-test=\"oidc-email\" name=\"email\" type=\"email\" autocomplete=\"username\" required autofocus></label>\
             <label>{password}<input data-test=\"oidc-password\" name=\"password\" type=\"password\" autocomplete=\"current-password\" required></label>\
             <button class=\"first\" data-test=\"oidc-sign-in\">{}</button>",
            say("로그인", "Sign in")
        );
        let other = format!(
            "<p class=\"faint\">{} <a href=\"/\" target=\"_blank\" rel=\"noopener\">Madang</a><br>\
             <a data-test=\"oidc-again\" href=\"{}\">{}</a></p>",
            say(
                "패스키나 다른 방법으로 로그인하려면 새 창에서 로그인한 뒤 돌아오세요.",
                "For a passkey or another way, sign in in a new window and come back."
            ),
            escaped(again),
            say("로그인했습니다, 계속", "I am signed in: continue")
        );
        self.title(tool);
        self.above(note);
        self.form("/v1/oidc/sign-in", &[("request", request)], &fields);
        self.body.push_str(&other);
        self
    }

    pub(super) fn second(
        mut self,
        tool: &str,
        (request, challenge): (&str, &str),
        note: Option<Note>,
    ) -> Self {
        let say = |korean, english| self.language.say(korean, english);
        let fields = format!(
            "<label>{}<input data-test=\"oidc-code\" name=\"code\" autocomplete=\"one-time-code\" required autofocus></label>\
             <button class=\"first\" data-test=\"oidc-second\">{}</button>",
            say("인증 앱의 코드 또는 복구 코드", "Code of your app, or a recovery code"),
            say("계속", "Continue")
        );
        self.title(tool);
        self.above(note);
        self.form("/v1/oidc/second", &[("request", request), ("challenge", challenge)], &fields);
        self
    }

    /// Asks whether a tool may know who somebody is.
    pub(super) fn ask(
        mut self,
        (tool, place): (&str, &str),
        name: &str,
        (request, scope): (&str, &str),
    ) -> Self {
        let say = |korean, english| self.language.say(korean, english);
        let mut told = String::new();
        for one in scope.split(' ') {
            let text = match one {
                "email" => say(
                    "이메일 주소와 확인 여부",
                    "your e-mail address, and whether it is verified",
                ),
                "profile" => say("이름과 조직", "your name and organisation"),
                "offline_access" => {
                    say("로그아웃한 뒤에도 계속", "the same after you sign out here")
                }
                _ => say("계정 ID", "the ID of your account"),
            };
            write!(told, "<li>{text}</li>").expect(STRING);
        }
        let (tool, name) = (escaped(tool), escaped(name));
        let text = match self.language {
            Language::Korean => format!(
                "<b>{tool}</b>에 <b>{name}</b> 계정의 다음 정보를 알립니다. 비밀번호와 이곳의 권한은 전해지지 않습니다."
            ),
            Language::English => format!(
                "<b>{tool}</b> will see this of <b>{name}</b>. It never gets your password, and can do nothing here in your name."
            ),
        };
        let fields = format!(
            "<button class=\"first\" data-test=\"oidc-allow\" name=\"answer\" value=\"allow\">{}</button>\
             <button data-test=\"oidc-deny\" name=\"answer\" value=\"deny\">{}</button>",
            say("계속", "Continue"),
            say("취소", "Cancel")
        );
        let place_text = escaped(place);
        self.leads_to_http = place.starts_with("http:");
        self.heading(&tool);
        write!(self.body, "<p>{text}</p><ul>{told}</ul><p class=\"faint\">{place_text}</p>")
            .expect(STRING);
        self.form("/v1/oidc/consent", &[("request", request)], &fields);
        self
    }

    pub(super) fn leave(
        mut self,
        tool: Option<&str>,
        (kept, place): (&[(&str, &str)], Option<&str>),
    ) -> Self {
        let text = self.language.say("로그아웃", "Sign out");
        let fields = format!("<button class=\"first\" data-test=\"oidc-sign-out\">{text}</button>");
        self.leads_to_http = place.is_some_and(|place| place.starts_with("http:"));
        write!(self.body, "<h1>{text}</h1>").expect(STRING);
        if let Some(tool) = tool {
            let tool = escaped(tool);
            let text = match self.language {
                Language::Korean => {
                    format!("<b>{tool}</b>에서 왔습니다. 이곳에서도 로그아웃할까요?")
                }
                Language::English => {
                    format!("You come from <b>{tool}</b>. Sign out here too?")
                }
            };
            write!(self.body, "<p>{text}</p>").expect(STRING);
        }
        self.form("/v1/oidc/sign-out", kept, &fields);
        self
    }

    fn title(&mut self, tool: &str) {
        self.heading(&escaped(tool));
    }

    fn heading(&mut self, escaped_tool: &str) {
        let text = match self.language {
            Language::Korean => format!("{escaped_tool} 로그인"),
            Language::English => format!("Sign in to {escaped_tool}"),
        };
        write!(self.body, "<h1>{text}</h1>").expect(STRING);
    }

    fn above(&mut self, note: Option<Note>) {
        if let Some(note) = note {
            let text = note.text(self.language);
            write!(
                self.body,
                "<p class=\"wrong\" role=\"alert\" data-test=\"oidc-note\">{text}</p>"
            )
            .expect(STRING);
        }
    }

    fn form(&mut self, action: &str, hidden: &[(&str, &str)], fields: &str) {
        write!(self.body, "<form method=\"post\" action=\"{action}\">").expect(STRING);
        for (name, value) in hidden {
            let value = escaped(value);
            write!(self.body, "<input type=\"hidden\" name=\"{name}\" value=\"{value}\">")
                .expect(STRING);
        }
        write!(self.body, "{fields}</form>").expect(STRING);
    }

    pub(super) fn response(self, status: StatusCode) -> Response {
        let language = self.language.say("ko", "en");
        let html = format!(
            "<!doctype html><html lang=\"{language}\"><head><meta charset=\"utf-8\"><title>Madang</title>\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <meta name=\"robots\" content=\"noindex\">{}<style>{STYLE}</style></head>\
             <body><main>{}</main></body></html>",
            self.head, self.body
        );
        let hash = &*STYLE_HASH;
        // A form leads back to a tool, and from there wherever the tool sends people.
        let http = if self.leads_to_http { " http:" } else { "" };
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{hash}'; form-action 'self' https:{http}; \
             base-uri 'none'; frame-ancestors 'none'"
        );
        let policy = HeaderValue::from_str(&policy).expect("the policy is ASCII");
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
            (header::CONTENT_SECURITY_POLICY, policy),
            // Without a referrer a form would not say whose page it is of.
            (header::REFERRER_POLICY, HeaderValue::from_static("same-origin")),
        ];
        (status, headers, html).into_response()
    }
}

const STRING: &str = "writing to a string cannot fail";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_known_language_of_a_browser_counts() {
        for (given, wanted) in [
            ("ko-KR,ko;q=0.9,en;q=0.8", Language::Korean),
            ("fr, en-GB;q=0.8, ko;q=0.5", Language::English),
            ("fr", Language::Korean),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_LANGUAGE, HeaderValue::from_static(given));
            assert_eq!(Language::of(&headers), wanted, "{given}");
        }
        assert_eq!(Language::of(&HeaderMap::new()), Language::Korean);
    }

    #[test]
    fn what_tools_call_themselves_stays_text() {
        let evil = "<script>alert('1')</script>\"&";
        let page = Page::new(Language::English).ask((evil, evil), evil, (evil, "openid"));
        let safe = escaped(evil);
        assert!(!page.body.contains("<script"), "{}", page.body);
        assert_eq!(page.body.matches(&*safe).count(), 5, "{}", page.body);
        let page = Page::new(Language::Korean).leave(Some(evil), (&[("state", evil)], None));
        assert_eq!(page.body.matches(&*safe).count(), 2, "{}", page.body);
        assert!(!page.body.contains("<script"));
    }
}
