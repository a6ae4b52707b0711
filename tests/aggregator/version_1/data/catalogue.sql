PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE settings (
	"key" VARCHAR(64) NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO settings VALUES('version','1');
INSERT INTO settings VALUES('fleet','testing');
INSERT INTO settings VALUES('schema_digest','553e7b61c016e7e8a1c8f223f2979faaa1fe4be63545582ca1bba37fbf7b2763');
INSERT INTO settings VALUES('private','yes');
INSERT INTO settings VALUES('schema','{"columns":[{"condition":true,"kind":"boolean","name":"late"},{"high":23,"kind":"integer","low":0,"name":"hour"},{"kind":"category","name":"origin","other":true,"values":["EWR","JFK","LGA"]},{"decimals":1,"high":100,"kind":"number","low":0,"name":"delay","nullable":true}],"format":"edge-runtime-schema","name":"trips","privacy_unit":"row","version":1}');
INSERT INTO settings VALUES('release_key','8d0ab92e3a27d34130fe929cab2010a6334a9b40b888b9be88c1b5b852d38dab');
INSERT INTO settings VALUES('config','{"fleet":{"name":"testing","devices":2},"data":{"dir":"fleet/data","catalogue":""},"schema":{"path":"fleet/schema.json"},"privacy":{"epsilon":8.0,"delta":0.00001},"broker":{"host":"127.0.0.1","port":1,"username":null,"password":null,"keepalive_s":30},"rounds":{"count":2,"quorum":2,"deadline_s":600.0,"census_share":0.08,"anchor_share":0.1,"pairs":"conditions"},"train":{"steps":300,"expected_batch":512,"clip_norm":1.0,"learning_rate":0.01,"averaging":0.0},"rows":{"share":0.25,"minimum":10,"maximum":4000,"clamp":"own"},"fusion":{"strategy":"pool","hidden":8,"epochs":6,"batch":128,"learning_rate":0.01,"patience":3,"validation_share":0.1,"max_rows":200000,"max_seconds":18.0,"rake":true},"guard":{"limit":0.1,"margin":0.05,"nll_margin":0.1,"rows":4000},"release":{"on_finish":true,"rows":0},"limits":{"queue_messages":1024,"quarantine_bytes":67108864},"seed":0,"log_level":"INFO"}');
CREATE TABLE messages (
	id VARCHAR(64) NOT NULL, 
	device VARCHAR(63) NOT NULL, 
	sequence BIGINT NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	status VARCHAR(16) NOT NULL, 
	reason TEXT NOT NULL, 
	round INTEGER NOT NULL, 
	plan_id VARCHAR(32) NOT NULL, 
	part INTEGER NOT NULL, 
	parts INTEGER NOT NULL, 
	depth INTEGER NOT NULL, 
	rows BIGINT NOT NULL, 
	bytes BIGINT NOT NULL, 
	path TEXT NOT NULL, 
	epsilon FLOAT, 
	received_at VARCHAR(40) NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO messages VALUES('9e105d0d6edd4432a71ccce0ec4d4d68','a',1,'329b8d09442ff8634e91e79896cafc5afaa921d66a4999a3d3bd6b8b4157aee7','census','accepted','',0,'05068dd4f02443afafc44dfb82896a5f',1,1,0,0,1120,'summaries/round=0/device=a/9e105d0d6edd4432a71ccce0ec4d4d68.zst',0.10000000000000000555,'2026-11-26T01:36:40+00:00');
INSERT INTO messages VALUES('9cf426bdb7a94420bf11b40f434be41f','b',1,'e427d0d8c3c533a6af50404164fb2e8c575b3325075ba1cc75850657769915b3','census','accepted','',0,'05068dd4f02443afafc44dfb82896a5f',1,1,0,0,961,'summaries/round=0/device=b/9cf426bdb7a94420bf11b40f434be41f.zst',0.10000000000000000555,'2026-11-26T01:36:40+00:00');
INSERT INTO messages VALUES('0eef077948a94142bdc4e86b6a8a029a','a',2,'81f5c346d4a12abbed56e9ca891727e6c8214ca2877c42f8fc6157d18dfc8012','batch','accepted','',1,'1a4ac6d4f4d74f2095122854210ad89d',1,2,1,30,787,'pool/round=1/device=a/0eef077948a94142bdc4e86b6a8a029a.parquet',0.10000000000000000555,'2026-11-26T01:36:40+00:00');
INSERT INTO messages VALUES('9ea3432b3003451c98ec8fd4cf057183','a',3,'b5f50ee6d5ed91139d3708dc4f9907d660ddc58a594f5ab20e64a07dbcf3b65a','batch','accepted','',1,'1a4ac6d4f4d74f2095122854210ad89d',2,2,1,30,786,'pool/round=1/device=a/9ea3432b3003451c98ec8fd4cf057183.parquet',0.10000000000000000555,'2026-11-26T01:36:40+00:00');
INSERT INTO messages VALUES('960288d756d44f7c9cbc821d21f549f4','a',4,'68f092687e492b97ec4a2a9c8bdca62dc6de8dbe524633eb35c972650bc1daf4','anchor','accepted','',1,'1a4ac6d4f4d74f2095122854210ad89d',1,1,0,0,823,'summaries/round=1/device=a/960288d756d44f7c9cbc821d21f549f4.zst',0.10000000000000000555,'2026-11-26T01:36:40+00:00');
INSERT INTO messages VALUES('dfa8ae1c53044fb99791c1e857c0c650','b',2,'cce8b069b7d5e57c9ea405f1452b5d21a6d73857591c474d5efd99981529df6a','batch','accepted','',1,'1a4ac6d4f4d74f2095122854210ad89d',1,2,1,30,788,'pool/round=1/device=b/dfa8ae1c53044fb99791c1e857c0c650.parquet',0.10000000000000000555,'2026-11-26T01:36:40+00:00');
INSERT INTO messages VALUES('aba6ec0d2a5f4d7988f83db7e76a3058','b',3,'ceb9e82280fe3b05073a0ff6f687dfe7f6482621d823691baf41cf11130d6ef8','batch','accepted','',1,'1a4ac6d4f4d74f2095122854210ad89d',2,2,1,30,781,'pool/round=1/device=b/aba6ec0d2a5f4d7988f83db7e76a3058.parquet',0.10000000000000000555,'2026-11-26T01:36:40+00:00');
INSERT INTO messages VALUES('a2de691303724db9963ed39086bf9bac','b',4,'7fb781df1ed4a5db5ceb3304e76ce5f623f8ac276087154960f40415b437f878','anchor','accepted','',1,'1a4ac6d4f4d74f2095122854210ad89d',1,1,0,0,820,'summaries/round=1/device=b/a2de691303724db9963ed39086bf9bac.zst',0.10000000000000000555,'2026-11-26T01:36:40+00:00');
CREATE TABLE rounds (
	round INTEGER NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	plan_id VARCHAR(64) NOT NULL, 
	"plan" TEXT NOT NULL, 
	status VARCHAR(16) NOT NULL, 
	started_unix_s FLOAT NOT NULL, 
	ended_unix_s FLOAT, 
	reason TEXT NOT NULL, 
	PRIMARY KEY (round)
);
INSERT INTO rounds VALUES(0,'census','05068dd4f02443afafc44dfb82896a5f','{"version":1,"fleet":"testing","id":"05068dd4f02443afafc44dfb82896a5f","round":0,"kind":"census","schema_digest":"553e7b61c016e7e8a1c8f223f2979faaa1fe4be63545582ca1bba37fbf7b2763","bundle_digest":null,"epsilon_after":1.896863281659098,"delta":0.00001,"deadline_s":600.0,"quorum":2,"census_sigma":4.5119544235642515,"train":null,"anchor":null,"rows":null}','closed',1000.0,1001.0,'');
INSERT INTO rounds VALUES(1,'train','1a4ac6d4f4d74f2095122854210ad89d','{"version":1,"fleet":"testing","id":"1a4ac6d4f4d74f2095122854210ad89d","round":1,"kind":"train","schema_digest":"553e7b61c016e7e8a1c8f223f2979faaa1fe4be63545582ca1bba37fbf7b2763","bundle_digest":"b30c237326f4520c518b3a875da0d2084c6035925dc913f66e4688ab453fd814","epsilon_after":5.568421735850537,"delta":0.00001,"deadline_s":600.0,"quorum":2,"census_sigma":null,"train":{"steps":300,"expected_batch":512,"clip_norm":1.0,"learning_rate":0.01,"averaging":0.0},"anchor":{"share":0.1,"pairs":[[0,1],[0,2],[0,3]]},"rows":{"share":0.25,"minimum":10,"maximum":4000,"clamp":"own"}}','open',1000.0,NULL,'');
CREATE TABLE bundles (
	number INTEGER NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	round INTEGER NOT NULL, 
	depth INTEGER NOT NULL, 
	parent VARCHAR(64), 
	status VARCHAR(16) NOT NULL, 
	reason TEXT NOT NULL, 
	metrics JSON NOT NULL, 
	path TEXT NOT NULL, 
	created_at VARCHAR(40) NOT NULL, 
	PRIMARY KEY (number)
);
INSERT INTO bundles VALUES(1,'b30c237326f4520c518b3a875da0d2084c6035925dc913f66e4688ab453fd814',0,0,NULL,'published','','{}','bundles/b30c237326f4520c518b3a875da0d2084c6035925dc913f66e4688ab453fd814.bundle','2026-11-26T01:36:40+00:00');
CREATE TABLE devices (
	device VARCHAR(63) NOT NULL, 
	state JSON NOT NULL, 
	seen_at VARCHAR(40) NOT NULL, 
	PRIMARY KEY (device)
);
INSERT INTO devices VALUES('a','{"status": "idle"}','2026-11-26T01:36:40+00:00');
CREATE INDEX ix_messages_device ON messages (device);
CREATE INDEX ix_messages_round ON messages (round);
CREATE INDEX ix_bundles_digest ON bundles (digest);
COMMIT;
