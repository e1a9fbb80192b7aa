"""An OAuth 2.0 authorization server made of Authlib, for the end-to-end tests.

    oauth_server.py CERTIFICATE KEY

It serves HTTPS on a free port of this machine, says which on its first line, and ends with its standard
input. Clients get tokens with the grant `client_credentials`: signed ones (RFC 9068) at /token, whose keys
are at /jwks.json, and opaque ones at /opaque, which /introspect (RFC 7662) knows. A GET of /revoke forgets all
opaque ones.
"""

import json
import secrets
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl

from authlib.oauth2 import AuthorizationServer, OAuth2Request
from authlib.oauth2.rfc6749 import ClientMixin, TokenMixin, grants
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc6750 import BearerTokenGenerator
from authlib.oauth2.rfc7662 import IntrospectionEndpoint
from authlib.oauth2.rfc9068 import JWTBearerTokenGenerator
from joserfc.jwk import ECKey, KeySet

ISSUER = "https://id.example"
AUDIENCE = "portcullis"
# The broker, which asks, and a device.
SECRETS = {"portcullis": "brokers-own-secret", "device-7": "devices-own-secret"}


class Client(ClientMixin):
    def __init__(self, name):
        self.name = name

    def get_client_id(self):
        return self.name

    def get_allowed_scope(self, scope):
        return scope

    def check_client_secret(self, secret):
        return secrets.compare_digest(secret, SECRETS[self.name])

    def check_endpoint_auth_method(self, method, endpoint):
        return method == "client_secret_basic"

    def check_grant_type(self, grant_type):
        return grant_type == "client_credentials"


class Token(TokenMixin):
    def __init__(self, client, token):
        self.client = client
        self.scope = token.get("scope")
        self.until = int(time.time()) + token["expires_in"]

    def is_expired(self):
        return time.time() > self.until

    def is_revoked(self):
        return False


class Request(OAuth2Request):
    def __init__(self, method, uri, headers, form):
        super().__init__(method, uri, headers=headers)
        self.payload = BasicOAuth2Payload(form)
        self.fields = form

    @property
    def args(self):
        return {}

    @property
    def form(self):
        return self.fields


class Server(AuthorizationServer):
    def __init__(self, generator):
        super().__init__()
        self.tokens = {}
        self.register_token_generator("default", generator)
        self.register_grant(grants.ClientCredentialsGrant)

    def query_client(self, client_id):
        return Client(client_id) if client_id in SECRETS else None

    def save_token(self, token, request):
        self.tokens[token["access_token"]] = Token(request.client, token)

    def create_oauth2_request(self, request):
        return request

    def handle_response(self, status, body, headers):
        return status, body

    def send_signal(self, name, *args, **kwargs):
        pass


class Signed(JWTBearerTokenGenerator):
    def __init__(self, keys):
        super().__init__(issuer=ISSUER, alg="ES256")
        self.keys = keys

    def get_jwks(self):
        return self.keys

    def get_audiences(self, client, user, scope):
        return [AUDIENCE]


class Introspection(IntrospectionEndpoint):
    CLIENT_AUTH_METHODS = ["client_secret_basic"]

    def check_permission(self, token, client, request):
        return client.get_client_id() == "portcullis"

    def query_token(self, token, hint):
        return self.server.tokens.get(token)

    def introspect_token(self, token):
        return {
            "active": True,
            "sub": token.client.get_client_id(),
            "scope": token.scope,
            "exp": token.until,
        }


def opaque(*args, **kwargs):
    return secrets.token_urlsafe(32)


def main(certificate, key):
    keys = KeySet([ECKey.generate_key("P-256", {"kid": "k1", "use": "sig", "alg": "ES256"})])
    signing = Server(Signed(keys))
    storing = Server(BearerTokenGenerator(opaque))
    storing.register_endpoint(Introspection)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            if self.path == "/revoke":
                storing.tokens.clear()
                self.reply(200, {})
            elif self.path == "/jwks.json":
                self.reply(200, keys.as_dict(private=False))
            else:
                self.reply(404, {})

        def do_POST(self):
            length = int(self.headers.get("Content-Length", 0))
            form = dict(parse_qsl(self.rfile.read(length).decode()))
            uri = f"https://{self.headers['Host']}{self.path}"
            request = Request("POST", uri, self.headers, form)
            if self.path == "/token":
                self.reply(*signing.create_token_response(request))
            elif self.path == "/opaque":
                self.reply(*storing.create_token_response(request))
            elif self.path == "/introspect":
                self.reply(*storing.create_endpoint_response("introspection", request))
            else:
                self.reply(404, {})

        def reply(self, status, body):
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()


main(*sys.argv[1:])
