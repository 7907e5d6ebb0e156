# ruff: noqa: E501 - a table of rules reads best with one rule on a line
"""What insecure code is, as data: rules with the CWE's number, and how a use is held against them.

A name in a rule is dotted; one that begins with "*." may have anything before it, or nothing. Written for this project.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

from llama3_plugins.guards.code.uses import Argument, Use

Category = Literal[
    "weak_hash", "weak_cipher", "weak_random", "certificates", "shell", "sql", "query", "eval", "deserialisation",
    "xml", "path", "memory", "web", "cookies", "files", "secrets", "semgrep",
]  # fmt: skip
CATEGORIES: tuple[Category, ...] = get_args(Category)


@dataclass(frozen=True, slots=True)
class CodeRule:
    """`languages`: all of them where it is empty. The other fields are conditions, and all must hold."""

    category: Category
    cwe: int
    action: Literal["flag", "block"]
    languages: frozenset[str]
    names: tuple[str, ...]
    is_set: bool = False
    dynamic: int | None = None
    """The argument of this number is no constant."""
    joined: bool = False
    """`argument` is asked of strings only that something is put into."""
    argument: re.Pattern[str] | None = None
    """Matches the beginning of an argument."""
    unless: re.Pattern[str] | None = None
    """Matches the beginning of no argument."""
    together: re.Pattern[str] | None = None
    """Stands somewhere in the arguments, which are put together with ", "."""
    unless_code: re.Pattern[str] | None = None
    """Stands nowhere in the code: asked when the code is complete."""


def _rules(
    languages: str,
    category: Category,
    cwe: int,
    action: Literal["flag", "block"],
    names: str,
    *,
    is_set: bool = False,
    dynamic: int | None = None,
    joined: bool = False,
    **patterns: str,
) -> CodeRule:
    conditions = {name: re.compile(pattern) for name, pattern in patterns.items()}
    return CodeRule(
        category, cwe, action, frozenset(languages.split()), tuple(names.split()), is_set, dynamic, joined, **conditions
    )


_SQL = r"(?is:.*\b(?:select\b.{0,200}\bfrom|insert\s+into|update\b.{0,200}\bset|delete\s+from|drop\s+table|alter\s+table|where)\b)"
_ASKED = r"(?s).*\b(?:request\.(?:args|form|values|files|json|GET|POST|query_params|cookies|headers)|flask\.request|input\(|sys\.argv)"
_JS_ASKED = r"(?s).*\b(?:req|request)\.(?:query|body|params|headers|cookies)\b"
_PHP_ASKED = r"(?s).*\$_(?:GET|POST|REQUEST|COOKIE|FILES|SERVER)\b"
_HASHES = r'(?i)"(?:md2|md4|md5|sha-?1|ripemd-?160|rmd160)"'
_CIPHERS = r'(?i)"(?:[\w/-]*[-_/])?(?:des|des3|3des|des-?ede3?|rc2|rc4|arc4|arcfour|bf|blowfish|cast5|idea|seed|tripledes)(?=[-_/"])|(?i:"[\w/-]*\becb\b)'
_SHELLS = r'(?s).*"(?:/(?:usr/)?bin/)?(?:sh|bash|zsh|cmd|cmd\.exe|powershell)"\]?, \[?"(?:-c|-lc|/c|/C|-Command)"'
_NOT_FIXED = r', (?!"[^"]*"\]?(?:,|$))'

RULES: tuple[CodeRule, ...] = (
    # Python
    _rules("python", "weak_hash", 328, "flag", "hashlib.md5 hashlib.sha1 Crypto.Hash.MD5.new Crypto.Hash.SHA1.new Crypto.Hash.SHA.new Crypto.Hash.MD4.new Crypto.Hash.MD2.new Cryptodome.Hash.MD5.new Cryptodome.Hash.SHA1.new cryptography.hazmat.primitives.hashes.MD5 cryptography.hazmat.primitives.hashes.SHA1", unless=r"usedforsecurity=False"),
    _rules("python", "weak_hash", 328, "flag", "hashlib.new hmac.new hmac.digest hashlib.pbkdf2_hmac", argument=rf"(?:digestmod=|name=|digest=)?(?:{_HASHES[4:]}|\"(?:MD5|SHA1)\"|hashlib\.(?:md5|sha1)\b)", unless=r"usedforsecurity=False"),
    _rules("python", "weak_cipher", 327, "block", "*.DES.new *.DES3.new *.ARC2.new *.ARC4.new *.Blowfish.new *.CAST.new *.algorithms.ARC4 *.algorithms.TripleDES *.algorithms.Blowfish *.algorithms.IDEA *.algorithms.CAST5 *.algorithms.SEED"),
    _rules("python", "weak_cipher", 327, "block", "*.AES.new", argument=r"(?:mode=)?[\w.]*\bMODE_ECB\b"),
    _rules("python", "weak_cipher", 327, "block", "*.modes.ECB"),
    _rules("python", "weak_random", 338, "flag", "random.random random.randint random.randrange random.choice random.choices random.sample random.getrandbits random.uniform random.randbytes", together=r"(?i)token|secret|passw|key|nonce|salt|otp|ascii_letters|digits|letters|hexdigits|printable"),
    _rules("python", "weak_random", 330, "flag", "uuid.uuid1"),
    _rules("python", "certificates", 295, "block", "ssl._create_unverified_context ssl._create_stdlib_context"),
    _rules("python", "certificates", 295, "block", "requests.get requests.post requests.put requests.patch requests.delete requests.head requests.options requests.request httpx.get httpx.post httpx.put httpx.delete httpx.request httpx.stream httpx.Client httpx.AsyncClient *.session.get *.session.post *.client.get *.client.post requests.Session().get requests.Session().post", argument=r"verify=False"),
    _rules("python", "certificates", 295, "block", "aiohttp.TCPConnector aiohttp.ClientSession().get", argument=r"(?:verify_ssl|ssl)=False"),
    _rules("python", "certificates", 295, "block", "*.verify_mode", is_set=True, argument=r"(?:ssl\.)?CERT_NONE\b"),
    _rules("python", "certificates", 295, "block", "*.check_hostname *.session.verify *.s.verify", is_set=True, argument=r"False\b"),
    _rules("python", "certificates", 295, "block", "ssl._create_default_https_context", is_set=True, argument=r"ssl\._create_unverified_context"),
    _rules("python", "certificates", 295, "block", "ssl.SSLContext ssl.wrap_socket", argument=r"(?:ssl_version=|protocol=)?ssl\.PROTOCOL_(?:SSLv2|SSLv3|TLSv1|TLSv1_1)\b"),
    _rules("python", "certificates", 295, "flag", "*.set_missing_host_key_policy", argument=r"(?:paramiko\.)?(?:AutoAddPolicy|WarningPolicy)\b|paramiko\.client\.AutoAddPolicy"),
    _rules("python", "shell", 78, "block", "os.system os.popen subprocess.getoutput subprocess.getstatusoutput commands.getoutput commands.getstatusoutput popen2.popen2 asyncio.create_subprocess_shell", dynamic=0),
    _rules("python", "shell", 78, "block", "subprocess.run subprocess.call subprocess.check_call subprocess.check_output subprocess.Popen", dynamic=0, argument=r"shell=(?:True|1)\b"),
    _rules("python", "shell", 78, "block", "subprocess.run subprocess.call subprocess.check_call subprocess.check_output subprocess.Popen asyncio.create_subprocess_exec os.execl os.execlp os.spawnl", together=_SHELLS + _NOT_FIXED),
    _rules("python", "sql", 89, "block", "*.execute *.executemany *.executescript *.raw *.read_sql *.read_sql_query sqlalchemy.text", joined=True, argument=r"(?:\w+=)?" + _SQL),
    _rules("python", "query", 643, "flag", "*.xpath *.XPath", joined=True, argument=r".*//?\w+\["),
    _rules("python", "query", 90, "flag", "*.search_s *.search_ext_s *.search_st", joined=True, argument=r".*\((?:&|\||!)?\(?\w+="),
    _rules("python", "eval", 95, "block", "eval exec builtins.eval builtins.exec __builtin__.eval", dynamic=0),
    _rules("python", "eval", 95, "flag", "code.InteractiveInterpreter().runcode code.InteractiveInterpreter().runsource"),
    _rules("python", "deserialisation", 502, "block", "pickle.load pickle.loads pickle.Unpickler cPickle.load cPickle.loads _pickle.loads _pickle.load dill.load dill.loads cloudpickle.load cloudpickle.loads shelve.open marshal.load marshal.loads jsonpickle.decode joblib.load pandas.read_pickle pickle.Unpickler().load"),
    _rules("python", "deserialisation", 502, "block", "yaml.load yaml.load_all", unless=r"(?:Loader=)?(?:yaml\.)?C?(?:Safe|Base)Loader\b"),
    _rules("python", "deserialisation", 502, "block", "yaml.unsafe_load yaml.unsafe_load_all yaml.full_load yaml.full_load_all"),
    _rules("python", "deserialisation", 502, "block", "torch.load", argument=r"weights_only=False"),
    _rules("python", "deserialisation", 502, "block", "numpy.load", argument=r"allow_pickle=True"),
    _rules("python", "xml", 611, "flag", "xml.sax.parse xml.sax.parseString xml.sax.make_parser xml.dom.minidom.parse xml.dom.minidom.parseString xml.dom.pulldom.parse xml.dom.pulldom.parseString xml.etree.ElementTree.parse xml.etree.ElementTree.fromstring xml.etree.ElementTree.iterparse xml.etree.ElementTree.XMLParser xml.etree.cElementTree.parse", dynamic=0),
    _rules("python", "xml", 611, "block", "lxml.etree.XMLParser", argument=r"(?:resolve_entities|load_dtd)=True|no_network=False"),
    _rules("python", "path", 22, "block", "open io.open os.open os.remove os.unlink shutil.rmtree shutil.copy flask.send_file *.send_file pathlib.Path", argument=_ASKED.replace(r"|input\(|sys\.argv", "")),
    _rules("python", "path", 22, "flag", "*.extractall shutil.unpack_archive", unless=r"filter=|members="),
    _rules("python", "web", 918, "block", "requests.get requests.post httpx.get httpx.post urllib.request.urlopen urlopen", argument=_ASKED.replace(r"|input\(|sys\.argv", "")),
    _rules("python", "web", 79, "block", "flask.render_template_string render_template_string", joined=True, argument=r".*"),
    _rules("python", "web", 79, "flag", "flask.Markup markupsafe.Markup django.utils.safestring.mark_safe", dynamic=0),
    _rules("python", "web", 79, "flag", "jinja2.Environment", unless=r"autoescape=(?!False)"),
    _rules("python", "web", 601, "block", "flask.redirect redirect", argument=_ASKED.replace(r"|input\(|sys\.argv", "")),
    _rules("python", "web", 489, "flag", "*.app.run app.run flask.Flask().run", argument=r"debug=True"),
    _rules("python", "web", 352, "flag", "django.views.decorators.csrf.csrf_exempt"),
    _rules("python", "web", 942, "flag", "flask_cors.CORS *.add_middleware", together=r"(?:origins|allow_origins)=(?:\[)?\"\*\"|(?:origins|allow_origins)=\['\*'\]"),
    _rules("python", "cookies", 614, "flag", "*.set_cookie", argument=r"(?:secure|httponly)=False"),
    _rules("python", "cookies", 1004, "flag", "SESSION_COOKIE_SECURE SESSION_COOKIE_HTTPONLY CSRF_COOKIE_SECURE", is_set=True, argument=r"False\b"),
    _rules("python", "files", 377, "block", "tempfile.mktemp os.tempnam os.tmpnam"),
    _rules("python", "files", 732, "flag", "os.chmod os.fchmod *.chmod", argument=r"(?:mode=)?(?:0o?777|0o?666|511|438)$"),
    _rules("python", "certificates", 347, "block", "jwt.decode jose.jwt.decode", together=r"verify=False|['\"]verify_signature['\"]: False"),
    # C and C++
    _rules("c cpp", "memory", 242, "block", "gets _getts"),
    _rules("c cpp", "memory", 120, "flag", "strcpy strcat wcscpy wcscat lstrcpy stpcpy _mbscpy StrCpy", dynamic=1),
    _rules("c cpp", "memory", 120, "flag", "sprintf vsprintf wsprintf swprintf", together=r"%[-\d.]*s|, (?!\")\w+, "),
    _rules("c cpp", "memory", 120, "block", "scanf fscanf sscanf", together=r"\"[^\"]*%s"),
    _rules("c cpp", "memory", 134, "block", "printf vprintf", dynamic=0),
    _rules("c cpp", "memory", 134, "block", "fprintf syslog dprintf", dynamic=1),
    _rules("c cpp", "memory", 676, "flag", "alloca strtok mktemp"),
    _rules("c cpp", "memory", 122, "flag", "malloc", together=r"^strlen\([^()]*\)$"),
    _rules("c cpp", "files", 377, "flag", "tmpnam tempnam mktemp"),
    _rules("c cpp", "files", 732, "flag", "chmod fchmod", together=r", 0?777$|, 0?666$"),
    _rules("c cpp", "shell", 78, "block", "system popen _popen _wsystem", dynamic=0),
    _rules("c cpp", "shell", 78, "block", "execl execlp", together=_SHELLS + _NOT_FIXED),
    _rules("c cpp", "weak_random", 338, "flag", "rand srand random srandom drand48 rand_r"),
    _rules("c cpp", "weak_hash", 328, "flag", "MD5 MD5_Init MD5_Update MD4 MD4_Init SHA1 SHA1_Init EVP_md5 EVP_sha1 EVP_md4 CC_MD5 CC_SHA1"),
    _rules("c cpp", "weak_cipher", 327, "block", "DES_set_key DES_ecb_encrypt DES_ncbc_encrypt RC4 RC4_set_key RC2_set_key BF_set_key EVP_des_ecb EVP_des_cbc EVP_des_ede3_cbc EVP_rc4 EVP_rc2_cbc EVP_bf_cbc EVP_aes_128_ecb EVP_aes_192_ecb EVP_aes_256_ecb AES_ecb_encrypt"),
    _rules("c cpp", "certificates", 295, "block", "curl_easy_setopt", together=r"CURLOPT_SSL_VERIFY(?:PEER|HOST), (?:0|0L|false|FALSE)$"),
    _rules("c cpp", "certificates", 295, "block", "SSL_CTX_set_verify SSL_set_verify", together=r", SSL_VERIFY_NONE\b"),
    _rules("c cpp", "sql", 89, "block", "mysql_query mysql_real_query sqlite3_exec sqlite3_prepare_v2 PQexec *.execute *.executeQuery *.exec", joined=True, argument=_SQL),
    # Java
    _rules("java", "weak_hash", 328, "flag", "*.MessageDigest.getInstance", argument=_HASHES),
    _rules("java", "weak_hash", 328, "flag", "*.DigestUtils.md5Hex *.DigestUtils.md5 *.DigestUtils.sha1Hex *.DigestUtils.sha1 *.Hashing.md5 *.Hashing.sha1"),
    _rules("java", "weak_cipher", 327, "block", "*.Cipher.getInstance *.KeyGenerator.getInstance *.SecretKeyFactory.getInstance", argument=_CIPHERS + r'|"AES"$'),
    _rules("java", "weak_random", 338, "flag", "*.Random *.Math.random"),
    _rules("java", "shell", 78, "block", "*.Runtime.getRuntime.exec *.runtime.exec *.rt.exec", dynamic=0),
    _rules("java", "shell", 78, "block", "*.ProcessBuilder *.command", together=_SHELLS + _NOT_FIXED),
    _rules("java", "sql", 89, "block", "*.executeQuery *.executeUpdate *.execute *.prepareStatement *.createQuery *.createNativeQuery *.addBatch *.queryForObject *.queryForList *.query *.update *.jdbcTemplate.query", joined=True, argument=_SQL),
    _rules("java", "query", 643, "flag", "*.xpath.evaluate *.xpath.compile *.XPath.evaluate", joined=True, argument=r".*//?\w+\["),
    _rules("java", "query", 90, "flag", "*.ctx.search *.context.search *.dirContext.search", joined=True, argument=r".*\((?:&|\||!)?\(?\w+="),
    _rules("java", "eval", 95, "block", "*.engine.eval *.scriptEngine.eval *.ScriptEngine.eval *.parser.parseExpression", dynamic=0),
    _rules("java", "deserialisation", 502, "block", "*.ObjectInputStream *.XMLDecoder *.XStream.fromXML *.xstream.fromXML *.enableDefaultTyping"),
    _rules("java", "xml", 611, "flag", "*.DocumentBuilderFactory.newInstance *.SAXParserFactory.newInstance *.XMLInputFactory.newInstance *.XMLInputFactory.newFactory *.SAXBuilder *.SAXReader *.TransformerFactory.newInstance", unless_code=r"disallow-doctype-decl|FEATURE_SECURE_PROCESSING|external-general-entities|SUPPORT_DTD|ACCESS_EXTERNAL_DTD|IS_SUPPORTING_EXTERNAL_ENTITIES"),
    _rules("java", "path", 22, "block", "*.File *.FileInputStream *.FileReader *.Paths.get *.Path.of", argument=r"(?s).*\b\w*[rR]eq(?:uest)?\.get(?:Parameter|Header)\("),
    _rules("java", "web", 79, "block", "*.getWriter.println *.getWriter.print *.getWriter.write *.out.println", argument=r"(?s).*\b\w*[rR]eq(?:uest)?\.getParameter\("),
    _rules("java", "web", 601, "block", "*.sendRedirect", argument=r"(?s).*\b\w*[rR]eq(?:uest)?\.getParameter\("),
    _rules("java", "web", 352, "flag", "*.csrf.disable"),
    _rules("java", "cookies", 614, "flag", "*.setSecure", argument=r"false$"),
    _rules("java", "cookies", 1004, "flag", "*.setHttpOnly", argument=r"false$"),
    _rules("java", "certificates", 295, "block", "*.NoopHostnameVerifier *.AllowAllHostnameVerifier *.setDefaultHostnameVerifier *.setHostnameVerifier", together=r"^$|->true|NoopHostnameVerifier|ALLOW_ALL"),
    _rules("java", "certificates", 295, "flag", "*.X509TrustManager"),
    # JavaScript
    _rules("javascript", "weak_hash", 328, "flag", "*.crypto.createHash *.createHash *.createHmac", argument=_HASHES),
    _rules("javascript", "weak_hash", 328, "flag", "CryptoJS.MD5 CryptoJS.SHA1"),
    _rules("javascript", "weak_cipher", 327, "block", "*.createCipheriv *.createDecipheriv", argument=_CIPHERS),
    _rules("javascript", "weak_cipher", 327, "block", "*.crypto.createCipher *.crypto.createDecipher CryptoJS.DES.encrypt CryptoJS.TripleDES.encrypt CryptoJS.RC4.encrypt"),
    _rules("javascript", "weak_random", 338, "flag", "Math.random"),
    _rules("javascript", "shell", 78, "block", "child_process.exec child_process.execSync *.child_process.exec shelljs.exec", dynamic=0),
    _rules("javascript", "shell", 78, "block", "child_process.spawn child_process.spawnSync child_process.execFile child_process.execFileSync", dynamic=0, together=r"shell:true"),
    _rules("javascript", "shell", 78, "block", "child_process.spawn child_process.spawnSync child_process.execFile", together=_SHELLS + _NOT_FIXED),
    _rules("javascript", "sql", 89, "block", "*.query *.execute *.raw *.run *.all *.prepare *.$queryRawUnsafe", joined=True, argument=_SQL),
    _rules("javascript", "query", 943, "flag", "*.find *.findOne", argument=r"(?:\{.*)?\b(?:req|request)\.(?:body|query)\b|\{\$where:"),
    _rules("javascript", "eval", 95, "block", "eval window.eval globalThis.eval vm.runInNewContext vm.runInThisContext vm.runInContext vm.Script", dynamic=0),
    _rules("javascript", "eval", 95, "block", "Function", argument=r'[^"]'),
    _rules("javascript", "eval", 95, "block", "setTimeout setInterval", joined=True, argument=r'(?!\(|function|async|\w+=>)[^=]*$'),
    _rules("javascript", "deserialisation", 502, "block", "*.unserialize node-serialize.unserialize serialize-javascript.deserialize"),
    _rules("javascript", "deserialisation", 502, "block", "js-yaml.load", unless=r".*(?:SAFE|JSON|FAILSAFE|CORE)_SCHEMA"),
    _rules("javascript", "xml", 611, "block", "*.parseXml *.parseXmlString *.parseFromString", together=r"noent:true"),
    _rules("javascript", "path", 22, "block", "fs.readFile fs.readFileSync fs.createReadStream fs.writeFile fs.writeFileSync fs.unlink *.sendFile *.download", argument=_JS_ASKED),
    _rules("javascript", "web", 79, "flag", "*.innerHTML *.outerHTML", is_set=True, dynamic=0),
    _rules("javascript", "web", 79, "flag", "document.write document.writeln *.insertAdjacentHTML", joined=True, argument=r".*"),
    _rules("javascript", "web", 79, "block", "res.send res.write res.end response.send", joined=True, argument=_JS_ASKED),
    _rules("javascript", "web", 601, "block", "*.redirect", argument=_JS_ASKED),
    _rules("javascript", "web", 918, "block", "fetch axios.get axios.post axios request got *.axios.get", argument=_JS_ASKED),
    _rules("javascript", "cookies", 614, "flag", "secure", is_set=True, argument=r"false$"),
    _rules("javascript", "cookies", 1004, "flag", "httpOnly", is_set=True, argument=r"false$"),
    _rules("javascript", "certificates", 295, "block", "*.rejectUnauthorized", is_set=True, argument=r"false$"),
    _rules("javascript", "certificates", 295, "block", "*.NODE_TLS_REJECT_UNAUTHORIZED", is_set=True, argument=r'"?0"?$'),
    _rules("javascript", "certificates", 347, "block", "*.jwt.verify jsonwebtoken.verify", together=r'(?i)algorithms:\["none"'),
    _rules("javascript", "web", 942, "flag", "cors *.cors", together=r'origin:"\*"'),
    # PHP
    _rules("php", "weak_hash", 328, "flag", "md5 sha1 md5_file sha1_file"),
    _rules("php", "weak_hash", 328, "flag", "hash hash_hmac", argument=_HASHES),
    _rules("php", "weak_cipher", 327, "block", "openssl_encrypt openssl_decrypt", argument=_CIPHERS),
    _rules("php", "weak_cipher", 327, "block", "mcrypt_encrypt mcrypt_decrypt"),
    _rules("php", "weak_random", 338, "flag", "rand mt_rand uniqid lcg_value srand mt_srand"),
    _rules("php", "shell", 78, "block", "exec system shell_exec passthru popen proc_open pcntl_exec `", dynamic=0, unless=r"escapeshell(?:cmd|arg)\("),
    _rules("php", "sql", 89, "block", "mysqli_query mysql_query pg_query sqlite_query *.query *.exec *.prepare *.multi_query", joined=True, argument=_SQL),
    _rules("php", "eval", 95, "block", "eval assert create_function", dynamic=0),
    _rules("php", "eval", 94, "block", "extract", argument=_PHP_ASKED),
    _rules("php", "deserialisation", 502, "block", "unserialize", dynamic=0, unless=r".*\ballowed_classes"),
    _rules("php", "xml", 611, "block", "simplexml_load_string simplexml_load_file *.loadXML *.load", together=r"LIBXML_(?:NOENT|DTDLOAD)\b"),
    _rules("php", "xml", 611, "block", "libxml_disable_entity_loader", argument=r"false$"),
    _rules("php", "path", 98, "block", "include include_once require require_once", argument=_PHP_ASKED),
    _rules("php", "path", 22, "block", "file_get_contents fopen readfile file unlink move_uploaded_file", argument=_PHP_ASKED),
    _rules("php", "web", 79, "block", "echo print printf", argument=_PHP_ASKED, unless=r"(?s).*\b(?:htmlspecialchars|htmlentities|intval|strip_tags|urlencode|json_encode|esc_html)\("),
    _rules("php", "web", 601, "block", "header", argument=r"(?i)\"location:.*" + _PHP_ASKED[4:]),
    _rules("php", "certificates", 295, "block", "curl_setopt", together=r"CURLOPT_SSL_VERIFY(?:PEER|HOST), (?:false|FALSE|0)$"),
    # C#
    _rules("c_sharp", "weak_hash", 328, "flag", "*.MD5.Create *.SHA1.Create *.MD5.HashData *.SHA1.HashData *.MD5CryptoServiceProvider *.SHA1CryptoServiceProvider *.SHA1Managed *.HMACMD5 *.HMACSHA1"),
    _rules("c_sharp", "weak_cipher", 327, "block", "*.DES.Create *.TripleDES.Create *.RC2.Create *.DESCryptoServiceProvider *.TripleDESCryptoServiceProvider *.RC2CryptoServiceProvider"),
    _rules("c_sharp", "weak_cipher", 327, "block", "*.Mode", is_set=True, argument=r"(?:[\w.]+\.)?CipherMode\.ECB\b"),
    _rules("c_sharp", "weak_random", 338, "flag", "*.Random"),
    _rules("c_sharp", "shell", 78, "block", "*.Process.Start *.ProcessStartInfo", joined=True, argument=r".*"),
    _rules("c_sharp", "shell", 78, "block", "*.Process.Start *.ProcessStartInfo", together=r"(?i)\"(?:cmd|cmd\.exe|powershell|powershell\.exe|/bin/(?:ba)?sh)\", (?!\")"),
    _rules("c_sharp", "sql", 89, "block", "*.SqlCommand *.MySqlCommand *.NpgsqlCommand *.OleDbCommand *.SqliteCommand *.SQLiteCommand *.SqlDataAdapter *.FromSqlRaw *.ExecuteSqlRaw *.ExecuteSqlCommand *.Query *.Execute", joined=True, argument=_SQL),
    _rules("c_sharp", "sql", 89, "block", "*.CommandText", is_set=True, joined=True, argument=_SQL),
    _rules("c_sharp", "query", 643, "flag", "*.SelectSingleNode *.SelectNodes *.XPathSelectElement", joined=True, argument=r".*//?\w+\["),
    _rules("c_sharp", "eval", 95, "block", "*.CSharpScript.EvaluateAsync *.CSharpScript.RunAsync", dynamic=0),
    _rules("c_sharp", "deserialisation", 502, "block", "*.BinaryFormatter *.SoapFormatter *.LosFormatter *.NetDataContractSerializer *.ObjectStateFormatter *.JavaScriptSerializer.SimpleTypeResolver"),
    _rules("c_sharp", "deserialisation", 502, "block", "*.TypeNameHandling", is_set=True, argument=r"(?:[\w.]+\.)?TypeNameHandling\.(?:All|Auto|Objects|Arrays)\b"),
    _rules("c_sharp", "xml", 611, "block", "*.DtdProcessing", is_set=True, argument=r"(?:[\w.]+\.)?DtdProcessing\.Parse\b"),
    _rules("c_sharp", "xml", 611, "flag", "*.XmlResolver", is_set=True, argument=r"new ?XmlUrlResolver\b"),
    _rules("c_sharp", "path", 22, "block", "*.File.ReadAllText *.File.Open *.File.Delete *.File.ReadAllBytes *.Path.Combine", argument=r"(?s).*\bRequest\.(?:Query|Form|QueryString|Params)\b"),
    _rules("c_sharp", "web", 79, "block", "*.Response.Write *.Html.Raw", argument=r"(?s).*\bRequest\.(?:Query|Form|QueryString|Params)\b"),
    _rules("c_sharp", "web", 601, "block", "*.Redirect", argument=r"(?s).*\bRequest\.(?:Query|Form|QueryString|Params)\b"),
    _rules("c_sharp", "cookies", 614, "flag", "*.Secure", is_set=True, argument=r"false$"),
    _rules("c_sharp", "cookies", 1004, "flag", "*.HttpOnly", is_set=True, argument=r"false$"),
    _rules("c_sharp", "certificates", 295, "block", "*.ServerCertificateValidationCallback *.ServerCertificateCustomValidationCallback *.RemoteCertificateValidationCallback", is_set=True, argument=r".*=>\{?(?:return )?true|.*DangerousAcceptAnyServerCertificateValidator"),
    _rules("c_sharp", "shell", 78, "block", "*.StartInfo.Arguments", is_set=True, joined=True, argument=r".*"),
    # Rust
    _rules("rust", "weak_hash", 328, "flag", "*.md5.compute *.Md5.new *.Sha1.new *.Md5.digest *.Sha1.digest *.Md4.new"),
    _rules("rust", "weak_cipher", 327, "block", "*.Des.new *.TdesEde3.new *.Rc4.new *.Cipher.des_cbc *.Cipher.rc4 *.Cipher.aes_128_ecb *.Cipher.aes_256_ecb"),
    _rules("rust", "certificates", 295, "block", "*.danger_accept_invalid_certs *.danger_accept_invalid_hostnames", argument=r"true$"),
    _rules("rust", "certificates", 295, "block", "*.set_verify", argument=r"(?:\w+\.)?SslVerifyMode\.NONE"),
    _rules("rust", "shell", 78, "block", "*.Command.new.arg.arg", joined=True, argument=r".*"),
    _rules("rust", "shell", 78, "block", "*.Command.new.arg.arg *.Command.new.args", together=_SHELLS + _NOT_FIXED),
    _rules("rust", "sql", 89, "block", "*.sqlx.query *.query *.execute *.query_as *.prepare *.sql_query", joined=True, argument=_SQL),
    _rules("rust", "memory", 119, "flag", "*.mem.transmute *.transmute *.get_unchecked *.get_unchecked_mut *.from_raw_parts *.from_raw_parts_mut *.from_utf8_unchecked"),
    # Go
    _rules("go", "weak_hash", 328, "flag", "md5.New md5.Sum sha1.New sha1.Sum md4.New"),
    _rules("go", "weak_cipher", 327, "block", "des.NewCipher des.NewTripleDESCipher rc4.NewCipher"),
    _rules("go", "weak_random", 338, "flag", "rand.Int rand.Intn rand.Int31 rand.Int31n rand.Int63 rand.Float64 rand.Seed rand.New", unless_code=r'"crypto/rand"'),
    _rules("go", "shell", 78, "block", "exec.Command exec.CommandContext", together=_SHELLS + _NOT_FIXED),
    _rules("go", "sql", 89, "block", "*.Query *.QueryRow *.Exec *.QueryContext *.QueryRowContext *.ExecContext *.Prepare *.Raw", joined=True, argument=_SQL),
    _rules("go", "certificates", 295, "block", "*.InsecureSkipVerify", is_set=True, argument=r"true$"),
    _rules("go", "path", 22, "block", "os.Open os.ReadFile ioutil.ReadFile http.ServeFile", together=r"\br\.(?:URL\.Query\(|FormValue\(|PathValue\()"),
    _rules("go", "web", 79, "flag", "template.HTML template.JS", dynamic=0),
    _rules("go", "web", 79, "flag", "fmt.Fprintf fmt.Fprint", together=r"\br\.(?:URL\.Query\(|FormValue\()"),
    _rules("go", "web", 601, "block", "http.Redirect", together=r"\br\.(?:URL\.Query\(|FormValue\()"),
    _rules("go", "cookies", 614, "flag", "Secure", is_set=True, argument=r"false$"),
    _rules("go", "cookies", 1004, "flag", "HttpOnly", is_set=True, argument=r"false$"),
    _rules("go", "files", 732, "flag", "os.Chmod os.OpenFile os.WriteFile os.Mkdir os.MkdirAll", together=r", 0?o?(?:777|666)$"),
)  # fmt: skip

SHELL_LINES = (
    (95, re.compile(r"\beval\s+[\"']?\$\{?\w")),
    (494, re.compile(r"\b(?:curl|wget)\b[^\n|;]{0,300}\|\s?(?:sudo )?(?:ba|z|da)?sh\b")),
    (78, re.compile(r"\bbase64 (?:-d|--decode)\b[^\n|;]{0,100}\|\s?(?:ba)?sh\b")),
    (732, re.compile(r"\bchmod (?:-R )?(?:0?777|a\+rwx)\b")),
    (73, re.compile(r"\brm (?:-[a-zA-Z]*[rf][a-zA-Z]* ){1,3}(?:--no-preserve-root )?(?:/|~|\$HOME)\*?(?=\s|$|;|&)")),
)
"""Of a shell not what is called is asked, but what is written."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """A rule that holds, and the characters of the code that it holds of."""

    rule: CodeRule
    start: int
    end: int
    name: str


_BY_LAST: dict[str, list[tuple[str, CodeRule]]] = defaultdict(list)
for _rule in RULES:
    for _name in _rule.names:
        _BY_LAST[_name.rpartition(".")[2]].append((_name, _rule))
ASKED = frozenset(_BY_LAST)
"""Last parts of the names that rules ask for."""
SET = frozenset(name.rpartition(".")[2] for rule in RULES if rule.is_set for name in rule.names)
"""Those of names that are set."""


_WORD = re.compile(r"[A-Za-z_]\w*|`")


@cache
def _asked_of(languages: frozenset[str]) -> frozenset[str]:
    return frozenset(last for last, rules in _BY_LAST.items() if any(rule.languages & languages for _, rule in rules))


def may_alarm(code: str, languages: frozenset[str]) -> bool:
    """Whether the last part of a name that these rules ask for stands anywhere in code: however it is imported or
    renamed, it does where it is used."""
    return not _asked_of(languages).isdisjoint(_WORD.findall(code))


def alarms(uses: Iterable[Use], languages: frozenset[str], code: str, *, is_complete: bool) -> Iterator[Alarm]:
    """What rules of these languages say of uses in code. Of code that goes on is said what will hold of all of it."""
    for use in uses:
        told: set[tuple[Category, int]] = set()
        for name in sorted(use.names):
            for wanted, rule in _BY_LAST.get(name.rpartition(".")[2], ()):
                key = rule.category, rule.cwe
                if (
                    key not in told
                    and rule.languages & languages
                    and _is_named(name, wanted)
                    and _holds(rule, use, code, is_complete)
                ):
                    told.add(key)
                    yield Alarm(rule, use.start, use.end, name)


def _is_named(name: str, wanted: str) -> bool:
    if not wanted.startswith("*."):
        return name == wanted
    return name == wanted[2:] or name.endswith(wanted[1:])


def _holds(rule: CodeRule, use: Use, code: str, is_complete: bool) -> bool:
    if rule.is_set != use.is_set:
        return False
    if rule.unless_code is not None and (not is_complete or rule.unless_code.search(code)):
        return False
    arguments = use.arguments()
    if rule.dynamic is not None and (len(arguments) <= rule.dynamic or arguments[rule.dynamic].is_constant):
        return False
    if rule.unless is not None and any(map(rule.unless.match, _texts(arguments))):
        return False
    if rule.together is not None and not rule.together.search(", ".join(_texts(arguments))):
        return False
    asked = [argument for argument in arguments if argument.is_joined or not rule.joined]
    return rule.argument is None or any(map(rule.argument.match, _texts(asked)))


def _texts(arguments: Iterable[Argument]) -> list[str]:
    return [argument.text for argument in arguments]
