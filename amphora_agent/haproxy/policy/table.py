"""The table of docs/policy.md: what a configuration may contain, and why other words are refused.

Keywords are those of haproxy 2.6 to 3.0, and those that older controllers render. What is not here
is refused; `REFUSED` has better reasons for some words.
"""

import enum
from collections.abc import Mapping
from typing import TypeVar

_Value = TypeVar("_Value")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _map_words(words: Mapping[_Value, str]) -> dict[str, _Value]:
    """Return the value of each word; `words` are those of each value."""
    return {word: value for value, text in words.items() for word in text.split()}


class ArgumentKind(enum.Enum):
    """The kind of an argument, where it matters."""

    ANY = "any word"
    NONE = "no argument"
    ADDRESS = "an IP address or a name, with a port or without"
    CERTIFICATE = "a file in the instance's directory of certificates"
    CERTIFICATES = "such a file, or that directory"
    AUTHORITY = "such a file, or what the system trusts"
    EXPRESSION = "a sample expression"


# Sections

#: All proxies have one set of keywords here; haproxy checks which fits which proxy.
PROXIES = frozenset({"backend", "defaults", "frontend", "listen"})

GLOBAL = _words("""
    busy-polling close-spread-time cpu-map daemon description external-check fd-hard-limit
    grace group h1-accept-payload-with-any-method h1-case-adjust
    h1-do-not-close-on-insecure-transfer-encoding hard-stop-after http-err-codes http-fail-codes
    insecure-fork-wanted log log-send-hostname log-tag max-spread-checks maxcompcpuusage maxcomprate
    maxconn maxconnrate maxpipes maxsessrate maxsslconn maxsslrate maxzlibmem mworker-max-reloads
    nbthread no-memory-trimming no-quic node noepoll noevports nogetaddrinfo nokqueue nopoll
    noreuseport nosplice numa-cpu-mapping pidfile pp2-never-send-local prealloc-fd profiling.tasks
    quiet server-state-file set-var set-var-fmt spread-checks ssl-default-bind-ciphers
    ssl-default-bind-ciphersuites ssl-default-bind-client-sigalgs ssl-default-bind-curves
    ssl-default-bind-options ssl-default-bind-sigalgs ssl-default-server-ciphers
    ssl-default-server-ciphersuites ssl-default-server-client-sigalgs ssl-default-server-curves
    ssl-default-server-options ssl-default-server-sigalgs ssl-dh-param-file ssl-security-level
    ssl-server-verify ssl-skip-self-issued-ca stats thread-group thread-groups thread-hard-limit
    user warn-blocked-traffic-after zero-warning
""")

#: Settings of `global` with a number, each with the greatest allowed value: haproxy allocates what
#: it is told to.
#: Controllers give `tune.ssl.cachesize` two fifths of the memory: 250 bytes a block.
TUNE = _map_words(
    {
        1 << 31: """
            tune.comp.maxlevel tune.disable-fast-forward tune.disable-zero-copy-forwarding
            tune.applet.zero-copy-forwarding tune.events.max-events-at-once tune.fd.edge-triggered
            tune.h1.zero-copy-fwd-recv tune.h1.zero-copy-fwd-send tune.h2.be.glitches-threshold
            tune.h2.be.initial-window-size tune.h2.be.max-concurrent-streams
            tune.h2.fe.glitches-threshold tune.h2.fe.initial-window-size
            tune.h2.fe.max-concurrent-streams tune.h2.fe.max-total-streams
            tune.h2.header-table-size tune.h2.initial-window-size tune.h2.max-concurrent-streams
            tune.h2.max-frame-size tune.h2.zero-copy-fwd-send tune.http.cookielen
            tune.http.logurilen tune.http.maxhdr tune.idle-pool.shared tune.idletimer
            tune.listener.default-shards tune.listener.multi-queue tune.max-checks-per-thread
            tune.maxaccept tune.maxpollevents tune.pattern.cache-size
            tune.peers.max-updates-at-once tune.pool-high-fd-ratio tune.pool-low-fd-ratio
            tune.pt.zero-copy-forwarding tune.recv_enough tune.runqueue-depth
            tune.sched.low-latency tune.ssl.capture-buffer-size tune.ssl.capture-cipherlist-size
            tune.ssl.default-dh-param tune.ssl.force-private-cache tune.ssl.hard-maxrecord
            tune.ssl.lifetime tune.ssl.maxrecord tune.ssl.ssl-ctx-cache-size tune.stick-counters
            tune.vars.global-max-size tune.vars.proc-max-size tune.vars.reqres-max-size
            tune.vars.sess-max-size tune.vars.txn-max-size tune.zlib.memlevel
            tune.zlib.windowsize tune.buffers.limit tune.buffers.reserve
            tune.ssl.cachesize
        """,
        1 << 20: """
            tune.bufsize tune.maxrewrite tune.pipesize tune.rcvbuf.backend tune.rcvbuf.client
            tune.rcvbuf.frontend tune.rcvbuf.server tune.sndbuf.backend tune.sndbuf.client
            tune.sndbuf.frontend tune.sndbuf.server tune.bufsize.small
        """,
    }
)

PROXY = _words("""
    acl backlog balance bind capture clitcpka-cnt clitcpka-idle clitcpka-intvl compression cookie
    declare default-server default_backend description disabled dispatch dynamic-cookie-key enabled
    errorfile errorfiles errorloc errorloc302 errorloc303 external-check filter force-persist
    fullconn guid hash-balance-factor hash-preserve-affinity hash-type http-after-response
    http-check http-error http-request http-response http-reuse http-send-name-header id
    ignore-persist load-server-state-from-file log log-format log-format-sd log-tag
    max-keep-alive-queue max-session-srv-conns maxconn mode monitor monitor-uri option persist
    rate-limit redirect retries retry-on server server-template source srvtcpka-cnt srvtcpka-idle
    srvtcpka-intvl stats stick stick-table tcp-check tcp-request tcp-response timeout
    unique-id-format unique-id-header use-server use_backend error-log-format
""")

#: Sections that are not proxies, and what they may have.
SECTIONS = {
    "global": GLOBAL | TUNE.keys(),
    "peers": _words("""
        bind default-bind default-server disabled enabled log peer server shards table
    """),
    "resolvers": _words("""
        accepted_payload_size hold nameserver parse-resolv-conf resolve_retries timeout
    """),
    "cache": _words("max-age max-object-size max-secondary-entries process-vary total-max-size"),
    "userlist": _words("group user"),
    "http-errors": _words("errorfile"),
    **dict.fromkeys(PROXIES, PROXY),
}  # fmt: skip

#: Keywords that may follow `no` and `default` (haproxy warns about others, and obeys).
NEGATED = _words("busy-polling insecure-fork-wanted log numa-cpu-mapping option")


# Second words

OPTIONS = _words("""
    abortonclose accept-invalid-http-request accept-invalid-http-response
    accept-unsafe-violations-in-http-request accept-unsafe-violations-in-http-response allbackups
    checkcache clitcpka contstats disable-h2-upgrade dontlog-normal dontlognull external-check
    forceclose forwarded forwardfor h1-case-adjust-bogus-client h1-case-adjust-bogus-server
    http-buffer-request http-drop-request-trailers http-drop-response-trailers http-ignore-probes
    http-keep-alive http-no-delay http-pretend-keepalive http-restrict-req-hdr-names
    http-server-close http-tunnel http-use-htx http-use-proxy-header httpchk httpclose httplog
    httpslog idle-close-on-response independent-streams ldap-check log-health-checks
    log-separate-errors logasap mysql-check nolinger originalto persist pgsql-check
    prefer-last-server redis-check redispatch smtpchk socket-stats splice-auto splice-request
    splice-response spop-check srvtcpka ssl-hello-chk tcp-check tcp-smart-accept
    tcp-smart-connect tcpka tcplog
""")

#: Actions, without their parentheses.
ACTIONS = _words("""
    accept add-acl add-header allow auth cache-store cache-use capture close del-acl del-header
    del-map deny disable-l7-retry do-resolve early-hint expect-netscaler-cip expect-proxy
    inspect-delay normalize-uri redirect reject replace-header replace-path replace-pathq
    replace-uri replace-value return sc-add-gpc sc-inc-gpc sc-inc-gpc0 sc-inc-gpc1 sc-set-gpt
    sc-set-gpt0
    set-bandwidth-limit set-bc-tos set-dst set-dst-port set-fc-tos set-header set-log-level set-map
    set-method set-nice set-path set-pathq set-priority-class set-priority-offset set-query
    set-src set-src-port set-status set-timeout set-tos set-uri set-var set-var-fmt silent-drop
    strict-mode switch-mode tarpit unset-var use-service wait-for-body wait-for-handshake
""") | {f"track-sc{number}" for number in range(10)}
#: Actions with the name of a file in parentheses.
FILE_ACTIONS = _words("add-acl del-acl del-map set-map")
#: Words before the action of a TCP rule.
MOMENTS = _words("connection content session")
SERVICES = frozenset({"prometheus-exporter"})

CHECKS = _words("""
    comment connect disable-on-404 expect send send-binary send-binary-lf send-lf send-state
    set-var set-var-fmt unset-var
""")
FILTERS = _words("bwlim-in bwlim-out cache compression")
STATISTICS = _words("""
    auth enable hide-version http-request realm refresh scope show-desc show-legends show-modules
    show-node uri
""")

#: Words before the name of a file, in rules that answer a client.
ANSWERS = _words("errorfile file lf-file")


# Options of a line

BIND = _map_words(
    {
        ArgumentKind.NONE: """
            accept-proxy allow-0rtt defer-accept force-sslv3 force-tlsv10 force-tlsv11 force-tlsv12
            force-tlsv13 generate-certificates no-alpn no-ca-names no-sslv3 no-tls-tickets no-tlsv10
            no-tlsv11 no-tlsv12 no-tlsv13 prefer-client-ciphers ssl strict-sni tfo v4v6 v6only
        """,
        ArgumentKind.ANY: """
            accept-netscaler-cip alpn backlog ca-ignore-err ca-sign-pass ciphers ciphersuites
            client-sigalgs crt-ignore-err curves ecdhe guid-prefix id interface maxconn mss name
            nbconn nice npn ocsp-update process proto shards sigalgs ssl-max-ver ssl-min-ver tcp-ut
            thread verify
        """,
        ArgumentKind.CERTIFICATE: "ca-sign-file crl-file crt-list default-crt tls-ticket-keys",
        ArgumentKind.CERTIFICATES: "crt",
        ArgumentKind.AUTHORITY: "ca-file ca-verify-file",
    }
)

SERVER = _map_words(
    {
        ArgumentKind.NONE: """
            agent-check allow-0rtt backup check check-send-proxy check-ssl disabled enabled
            force-sslv3 force-tlsv10 force-tlsv11 force-tlsv12 force-tlsv13 no-agent-check no-backup
            no-check no-check-send-proxy no-check-ssl no-send-proxy no-send-proxy-v2
            no-send-proxy-v2-ssl no-send-proxy-v2-ssl-cn no-ssl no-ssl-reuse no-sslv3 no-tfo
            no-tls-tickets no-tlsv10 no-tlsv11 no-tlsv12 no-tlsv13 no-verifyhost non-stick
            send-proxy send-proxy-v2 send-proxy-v2-ssl send-proxy-v2-ssl-cn ssl ssl-reuse stick tfo
            tls-tickets
        """,
        ArgumentKind.ANY: """
            agent-inter agent-port agent-send alpn check-alpn check-proto ciphers ciphersuites
            client-sigalgs cookie curves downinter error-limit fall fastinter guid hash-key id
            init-addr init-state inter interface log-bufsize log-proto max-reuse maxconn maxqueue
            minconn npn observe on-error on-marked-down on-marked-up pool-low-conn pool-max-conn
            pool-purge-delay port proto proxy-v2-options redir resolve-net resolve-opts
            resolve-prefer resolvers rise shard sigalgs slowstart ssl-max-ver ssl-min-ver tcp-ut
            track verify verifyhost weight ws check-sni
        """,
        ArgumentKind.ADDRESS: "addr agent-addr source",
        ArgumentKind.EXPRESSION: "pool-conn-name sni",
        ArgumentKind.CERTIFICATE: "crl-file crt",
        ArgumentKind.AUTHORITY: "ca-file",
    }
)

#: The system's trust stores, which `ca-file` may name; everybody may read them.
TRUST_STORES = frozenset(
    {"@system-ca", "/etc/ssl/certs", "/etc/ssl/certs/", "/etc/ssl/certs/ca-certificates.crt"}
)

#: Sockets of syslog in an amphora.
LOG_SOCKETS = frozenset({"/dev/log", "/run/rsyslog/octavia/log", "/var/run/rsyslog/octavia/log"})

#: The user that haproxy's workers run as; the agent adds it to texts that name none.
USER = "nobody"
SOCKET_MODES = _words("0600 600 0660 660 0666 666")
#: Megabytes for the cache, shared by all processes of an instance.
CACHE = 1024
#: Groups that own no files; old controllers write `None` to leave it to the agent.
GROUPS = _words("daemon haproxy nobody nogroup octavia proxy www-data None")

#: The path in the controller's texts, whatever base_path is.
PING_WRAPPER = "/var/lib/octavia/ping-wrapper.sh"

#: Names of files with answers for clients end so; those of certificates and of the agent do not.
ANSWER_FILES = (".htm", ".html", ".http", ".txt")

#: Flags of an ACL before its patterns, and how many words each takes.
ACL_FLAGS = {"-i": 0, "-n": 0, "-M": 0, "-m": 1, "-u": 1, "-f": 1}


# Sample expressions

#: What every stick counter tells, for `sc_`, `sc0_` to `sc2_` and `src_`.
_COUNTERS = _words("""
    bytes_in_rate bytes_out_rate clr_gpc clr_gpc0 clr_gpc1 conn_cnt conn_cur conn_rate get_gpc
    get_gpc0 get_gpc1 get_gpt get_gpt0 glitch_cnt glitch_rate gpc0_rate gpc1_rate gpc_rate
    http_err_cnt http_err_rate http_fail_cnt http_fail_rate http_req_cnt http_req_rate inc_gpc
    inc_gpc0 inc_gpc1 kbytes_in kbytes_out sess_cnt sess_rate tracked trackers updt_conn_cnt
""")

FETCHES = frozenset(
    f"{counter}_{figure}" for counter in ("sc", "sc0", "sc1", "sc2", "src") for figure in _COUNTERS
) | _words("""
    accept_date acl act_conn always_false always_true avg_queue base base32 base32+src base_beg
    base_dir base_dom base_end base_len base_reg base_sub baseq bc.timer.connect bc_be_queue
    bc_dst bc_dst_port bc_err bc_err_name bc_err_str bc_glitches bc_http_major bc_nb_streams
    bc_rtt bc_rttvar bc_setting_streams_limit bc_src bc_src_port bc_srv_queue be_conn
    be_conn_free be_id be_name be_server_timeout be_sess_rate be_tunnel_timeout bin bool
    bs.aborted bs.id bs.rst_code bytes_in bytes_out capture.req.hdr capture.req.method
    capture.req.uri capture.req.ver capture.res.hdr capture.res.ver connslots cook cook_beg
    cook_cnt cook_dir cook_dom cook_end cook_len cook_reg cook_sub cook_val cookie cpu_calls
    cpu_ns_avg cpu_ns_tot cur_client_timeout cur_server_timeout cur_tunnel_timeout date date_us
    distcc_body distcc_param dst dst_conn dst_is_local dst_port fc.timer.handshake
    fc.timer.total fc_dst fc_dst_is_local fc_dst_port fc_err fc_err_name fc_err_str fc_fackets
    fc_glitches fc_http_major fc_lost fc_nb_streams fc_pp_authority fc_pp_tlv fc_pp_unique_id
    fc_rcvd_proxy fc_reordering fc_retrans fc_rtt fc_rttvar fc_sacked fc_settings_streams_limit
    fc_src fc_src_is_local fc_src_port fc_unacked fe_client_timeout fe_conn fe_defbe fe_id
    fe_name fe_req_rate fe_sess_rate fs.aborted fs.id fs.rst_code hdr hdr_beg hdr_cnt hdr_dir
    hdr_dom hdr_end hdr_ip hdr_len hdr_reg hdr_sub hdr_val hostname http_auth http_auth_bearer
    http_auth_group http_auth_pass http_auth_type http_auth_user http_first_req int ipv4 ipv6
    last_rule_file last_rule_line lat_ns_avg lat_ns_tot meth method nbproc nbsrv path path_beg
    path_dir path_dom path_end path_len path_reg path_sub pathq payload payload_lv pid
    prio_class prio_offset proc query queue quic_enabled rand rdp_cookie rdp_cookie_cnt
    rep_ssl_hello_type req.body req.body_len req.body_param req.body_size req.cook req.cook_cnt
    req.cook_names req.cook_val req.fhdr req.fhdr_cnt req.hdr req.hdr_cnt req.hdr_ip
    req.hdr_names req.hdr_val req.hdrs req.hdrs_bin req.len req.payload req.payload_lv
    req.proto_http req.rdp_cookie req.rdp_cookie_cnt req.ssl_alpn req.ssl_ec_ext
    req.ssl_hello_type req.ssl_sni req.ssl_st_ext req.ssl_ver req.timer.hdr req.timer.idle
    req.timer.queue req.timer.tq req.ver req_len req_proto_http req_rdp_cookie
    req_rdp_cookie_cnt req_ssl_hello_type req_ssl_sni req_ssl_ver req_ver request_date res.body
    res.body_len res.body_size res.cache_hit res.cache_name res.comp res.comp_algo res.cook
    res.cook_cnt res.cook_names res.cook_val res.fhdr res.fhdr_cnt res.hdr res.hdr_cnt
    res.hdr_ip res.hdr_names res.hdr_val res.hdrs res.hdrs_bin res.len res.payload
    res.payload_lv res.ssl_hello_type res.timer.data res.timer.hdr res.ver resp_ver scook
    scook_beg scook_cnt scook_dir scook_dom scook_end scook_len scook_reg scook_sub scook_val
    server_status shdr shdr_beg shdr_cnt shdr_dir shdr_dom shdr_end shdr_ip shdr_len shdr_reg
    shdr_sub shdr_val so_id so_name src src_is_local src_port srv_conn srv_conn_free srv_id
    srv_is_up srv_iweight srv_name srv_queue srv_sess_rate srv_uweight srv_weight ssl_bc
    ssl_bc_alg_keysize ssl_bc_alpn ssl_bc_cipher ssl_bc_client_random ssl_bc_curve ssl_bc_err
    ssl_bc_err_str ssl_bc_is_resumed ssl_bc_npn ssl_bc_protocol ssl_bc_server_random
    ssl_bc_session_id ssl_bc_unique_id ssl_bc_use_keysize ssl_c_ca_err ssl_c_ca_err_depth
    ssl_c_chain_der ssl_c_der ssl_c_err ssl_c_i_dn ssl_c_key_alg ssl_c_notafter ssl_c_notbefore
    ssl_c_r_dn ssl_c_s_dn ssl_c_serial ssl_c_sha1 ssl_c_sig_alg ssl_c_used ssl_c_verify
    ssl_c_version ssl_f_der ssl_f_i_dn ssl_f_key_alg ssl_f_notafter ssl_f_notbefore ssl_f_s_dn
    ssl_f_serial ssl_f_sha1 ssl_f_sig_alg ssl_f_version ssl_fc ssl_fc_alg_keysize ssl_fc_alpn
    ssl_fc_cipher ssl_fc_cipherlist_bin ssl_fc_cipherlist_hex ssl_fc_cipherlist_str
    ssl_fc_cipherlist_xxh ssl_fc_client_random ssl_fc_curve ssl_fc_ecformats_bin
    ssl_fc_eclist_bin ssl_fc_err ssl_fc_err_str ssl_fc_extlist_bin ssl_fc_has_crt
    ssl_fc_has_early ssl_fc_has_sni ssl_fc_is_resumed ssl_fc_npn ssl_fc_protocol
    ssl_fc_protocol_hello_id ssl_fc_server_random ssl_fc_session_id ssl_fc_sni ssl_fc_sni_end
    ssl_fc_sni_reg ssl_fc_unique_id ssl_fc_use_keysize ssl_ocsp_certid ssl_ocsp_certname
    ssl_ocsp_fail_cnt ssl_ocsp_status ssl_ocsp_status_str ssl_ocsp_success_cnt ssl_s_chain_der
    ssl_s_der ssl_s_i_dn ssl_s_key_alg ssl_s_notafter ssl_s_notbefore ssl_s_s_dn ssl_s_serial
    ssl_s_sha1 ssl_s_sig_alg ssl_s_version status stopping str table_avl table_cnt thread
    txn.conn_retries txn.id32 txn.redispatched txn.sess_term_state txn.status txn.timer.total
    txn.timer.user unique-id uptime url url32 url32+src url_beg url_dir url_dom url_end url_ip
    url_len url_param url_port url_reg url_sub urlp urlp_beg urlp_dir urlp_dom urlp_end
    urlp_len urlp_reg urlp_sub urlp_val uuid var wait_end
""")

#: Converters that read a file.
_MAPS = frozenset({"map", "map_regm"}) | {
    f"map_{how}{what}"
    for how in _words("beg dir dom end int ip reg str sub")
    for what in ("", "_int", "_ip", "_key")
}

CONVERTERS = _MAPS | _words("""
    add add_item aes_gcm_dec aes_gcm_enc and b64dec base64 be2dec be2hex bool bytes capture-req
    capture-res concat cpl crc32 crc32c cut_crlf digest div djb2 even field fix_is_valid
    fix_tag_value hex hex2i hmac host_only htonl http_date iif in_table ipmask json json_query
    jwt_header_query jwt_payload_query jwt_verify language length lower ltime ltrim mod
    mqtt_field_value mqtt_is_valid ms_ltime ms_utime mul nbsrv neg not odd or param port_only
    protobuf regsub rfc7239_field rfc7239_is_valid rfc7239_n2nn rfc7239_n2np rtrim sdbm
    secure_memcmp set-var sha1 sha2 srv_queue strcmp sub table_bytes_in_rate
    table_bytes_out_rate table_conn_cnt table_conn_cur table_conn_rate table_expire
    table_glitch_cnt table_glitch_rate table_gpc table_gpc0 table_gpc0_rate table_gpc1
    table_gpc1_rate table_gpc_rate table_gpt table_gpt0 table_http_err_cnt table_http_err_rate
    table_http_fail_cnt table_http_fail_rate table_http_req_cnt table_http_req_rate table_idle
    table_kbytes_in table_kbytes_out table_server_id table_sess_cnt table_sess_rate
    table_trackers ub64dec ub64enc ungrpc unset-var upper url_dec url_enc us_ltime us_utime
    utime when word wt6 x509_v_err_str xor xxh3 xxh32 xxh64
""")


# Reasons

_CODE = "it runs code on the amphora"
_FILES = "it reads or writes files beyond the instance's own"
_SOCKETS = "it opens other sockets than a load balancer's"
_USERS = "who haproxy runs as is settled"
_PROCESS = "how haproxy runs is the agent's to say"
_ENVIRONMENT = "the environment is the agent's own"
_HIDES = "what haproxy reads must be what is written"

REFUSED = _map_words(
    {
        _CODE: """
            lua-load lua-load-per-thread lua-prepend-path program command insecure-setuid-wanted
            ssl-engine ssl-provider ssl-provider-path opentracing spoe
        """,
        _FILES: """
            51degrees-data-file ca-base crt-base crt-store default-path deviceatlas-json-file
            h1-case-adjust-file issuers-chain-path key-base load-server-state-from-file
            server-state-base server-state-file-name ssl-load-extra-del-ext ssl-load-extra-files
            ssl-mode-async stats-file tune.ssl.keylog wurfl-data-file
        """,
        _SOCKETS: """
            email-alert expose-fd fcgi-app httpclient.resolvers.id httpclient.ssl.ca-file
            log-forward log-profile mailers namespace namespace_list ring
            socks4 traces trace unix-bind use-fcgi-app usesrc
        """,
        _USERS: "chroot gid setcap uid",
        _PROCESS: """
            expose-deprecated-directives expose-experimental-directives localpeer master-worker
            nbproc set-dumpable strict-limits ulimit-n
        """,
        _ENVIRONMENT: "presetenv resetenv setenv unsetenv env",
        _HIDES: ".if .elif .else .endif .diag .notice .warning .alert",
        "it steers the kernel's routing": "set-bc-mark set-fc-mark set-mark",
        "only the statistics socket has such options": "level mode severity-output user group",
        "it takes connections that are not for this amphora": "transparent",
    }
)
