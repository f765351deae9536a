// node web3.js RPC KEY ARTIFACT: docs/clients.md with web3.js.
const fs = require("fs"), { Web3 } = require("web3");
const [rpc, key, artifact] = process.argv.slice(2);
const AT = "0x000000000000000000000000000000737761726d", ZERO = "0x" + "0".repeat(40);
(async () => {
  const { abi } = JSON.parse(fs.readFileSync(artifact));
  const web3 = new Web3(rpc);
  const account = web3.eth.accounts.wallet.add(key)[0];
  const contract = new web3.eth.Contract(abi, AT);
  const members = await contract.methods.getMembers(0, 32).call();
  const receipt = await contract.methods.propose(2, ZERO, ZERO, "", 1, 0).send({ from: account.address });
  const at = receipt.blockNumber;
  const events = await contract.getPastEvents("Proposed", { fromBlock: at, toBlock: at });
  let refusal = "";
  try { await contract.methods.vote(99, true).call({ from: account.address }); }
  catch (error) { refusal = error.cause?.errorName ?? error.innerError?.errorName ?? String(error); }
  const { accountProof } = await web3.eth.getProof(AT, [], at);
  const { stateRoot } = await web3.eth.getBlock(at);
  console.log(JSON.stringify({
    proof: web3.utils.keccak256(accountProof[0]) === stateRoot,
    members: members.length, status: Number(receipt.status), events: events.length, refusal,
    price: receipt.effectiveGasPrice.toString(), transaction: receipt.transactionHash,
  }));
  process.exit(0);
})().catch((error) => { console.error(error); process.exit(1); });
