// node ethers.js RPC KEY ARTIFACT: docs/clients.md with ethers.
const fs = require("fs"), { ethers } = require("ethers");
const [rpc, key, artifact] = process.argv.slice(2);
const AT = "0x000000000000000000000000000000737761726d";
(async () => {
  const { abi } = JSON.parse(fs.readFileSync(artifact));
  const provider = new ethers.JsonRpcProvider(rpc);
  const contract = new ethers.Contract(AT, abi, new ethers.Wallet(key, provider));
  const members = await contract.getMembers(0, 32);
  const zero = ethers.ZeroAddress;
  const sent = await contract.propose(2, zero, zero, "", 1, 0);
  const receipt = await sent.wait();
  const events = await contract.queryFilter("Proposed", receipt.blockNumber, receipt.blockNumber);
  let refusal = "";
  try { await contract.vote.staticCall(99, true); } catch (error) { refusal = error.revert?.name; }
  const { accountProof } = await provider.send("eth_getProof", [AT, [], ethers.toQuantity(receipt.blockNumber)]);
  const { stateRoot } = await provider.getBlock(receipt.blockNumber);
  console.log(JSON.stringify({
    proof: ethers.keccak256(accountProof[0]) === stateRoot,
    members: members.length, status: receipt.status, events: events.length, refusal,
    price: receipt.gasPrice.toString(), transaction: sent.hash,
  }));
  process.exit(0);
})().catch((error) => { console.error(error); process.exit(1); });
